"""Cut the demo model in two anywhere: both halves together compute what the whole does."""

import torch

from edgewise.models.cache import Segment
from edgewise.models.shard import load_shard
from edgewise.models.tokenizer import load_tokenizer

tokenizer = load_tokenizer("demo")
tokens = torch.tensor(tokenizer.encode("Parking lot 37 has 12 free places."))
step = [Segment(sequence=0, start=0, length=len(tokens))]

whole = load_shard("demo")
first, second = load_shard("demo", 0, 6), load_shard("demo", 6)

logits = second.forward(first.forward(tokens, step), step)
assert torch.equal(logits, whole.forward(tokens, step))
print(f"layers 0-5 and 6-{second.end - 1} agree with the whole on {len(tokens)} tokens")
