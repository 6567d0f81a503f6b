"""A model writes: many sequences side by side, every one as long as the others."""

from collections.abc import Callable

import psutil
import torch
from torch import Tensor

from edgewise.errors import InputError
from edgewise.kernels import backend_of
from edgewise.models.cache import Segment
from edgewise.models.checkpoint import Checkpoint, open_checkpoint
from edgewise.models.shard import load_shard
from edgewise.models.tokenizer import load_tokenizer
from edgewise.schemes import get_scheme

# The first that fits into memory writes; where the kernels take any number of tokens, one that they
# multiply in integers, several times as fast there as bf16.
INTEGERS, FLOATS = ("q8g32", "stored", "q4g64"), ("bf16", "stored", "q4g64")
MOST_MEMORY = 0.8  # of what is free


@torch.inference_mode()
def write(
    model: str,
    count: int,
    length: int,
    seed: int,
    on_token: Callable[[int], None] = lambda token: None,
) -> Tensor:
    """`count` sequences of `length` tokens, ids int64 [count, length], at temperature 1 from the
    model's own start token. Raises NonFinite, and InputError where not even 4 bits a weight fit
    into memory."""
    checkpoint = open_checkpoint(model)
    scheme = _precision(checkpoint, count, length)
    shard = load_shard(checkpoint, schemes=scheme, slots=count, context=length)
    generator = torch.Generator().manual_seed(seed)
    ids = torch.empty(count, length, dtype=torch.int64)
    ids[:, 0] = _start(model, checkpoint.config.vocab_size, count, generator)
    for at in range(length - 1):
        segments = [Segment(number, at, 1) for number in range(count)]
        logits = shard.forward(ids[:, at], segments)
        ids[:, at + 1] = draw(logits.softmax(-1), generator)
        on_token(at)
    return ids


def draw(odds: Tensor, generator: torch.Generator) -> Tensor:
    """One index [B] from each row of `odds` [B, N], which need not sum to one: where the running
    sum passes a uniform share of the whole. (torch.multinomial draws a random number per index,
    which took a quarter of the time of writing.)"""
    total = odds.double().cumsum(-1)
    share = torch.rand(len(odds), 1, dtype=torch.float64, generator=generator)
    drawn = torch.searchsorted(total, share * total[:, -1:], right=True)[:, 0]
    return drawn.clamp_(max=odds.shape[-1] - 1)  # a share of nearly 1, rounded


def _precision(checkpoint: Checkpoint, count: int, length: int) -> str:
    spec, room = checkpoint.spec, MOST_MEMORY * _free_bytes()
    cache = 2 * count * length * sum(layer.kv_width for layer in spec.layers)
    backend = backend_of(torch.device("cpu"))
    integers = backend is not None and backend.most_tokens(None) >= count
    for name in INTEGERS if integers else FLOATS:
        if sum(layer.weight_bytes(get_scheme(name)) for layer in spec.layers) + cache <= room:
            return name
    raise InputError(
        f"'{checkpoint.model}' does not fit into this machine's memory in {FLOATS[-1]}, so it "
        "cannot write text to be measured on; give a file with --text"
    )


def _free_bytes() -> int:
    return int(psutil.virtual_memory().available)


def _start(model: str, vocabulary: int, count: int, generator: torch.Generator) -> Tensor:
    """The token after which a text begins: the end of the one before, where the model has one."""
    stops = sorted(load_tokenizer(model).stop_ids)
    if stops:
        return torch.full((count,), stops[0])
    return torch.randint(vocabulary, (count,), generator=generator)
