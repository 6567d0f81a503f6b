"""What a device that holds the first block can read: behind the embedding every hidden state is a
row of a table that everybody has, and the nearest row gives the prompt back."""

import torch

from edgewise.models.cache import Segment
from edgewise.models.checkpoint import open_checkpoint
from edgewise.models.shard import load_shard
from edgewise.models.tokenizer import load_tokenizer

tokenizer = load_tokenizer("demo")
tokens = torch.tensor(tokenizer.encode("Parking lot 37 has 12 free places."))
sent = load_shard("demo", 0, 1).forward(tokens, [Segment(sequence=0, start=0, length=len(tokens))])

# The other device: the model's table, and what came over the wire.
table = load_shard("demo", 0, 1, context=1024)
words = torch.arange(open_checkpoint("demo").spec.vocab_size)
rows = table.forward(words, [Segment(sequence=0, start=0, length=len(words))])
read = [int(torch.cdist(state[None], rows).argmin()) for state in sent]

assert read == tokens.tolist()
print("read from hidden states alone:", tokenizer.decode(read))
