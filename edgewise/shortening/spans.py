"""How much spans of blocks change what passes through them, and which one changes it least.

With x_t^(l) the hidden state of token t before block l, not normalised, and x_t^(L) that behind the
last block, the similarity of the span of n blocks from l on is (LLM-Streamline, arXiv 2403.19135)

    cos(l, n) = mean over sequences and tokens of x_t^(l) . x_t^(l+n) / (|x_t^(l)| |x_t^(l+n)|)

The paper's code takes transformers' `hidden_states`, whose last entry is normalised; so it compares
the last span with what is another thing. Here it is not normalised.
"""

from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from edgewise.errors import InputError
from edgewise.models.checkpoint import Checkpoint
from edgewise.models.config import DecoderConfig
from edgewise.models.loading import Loader
from edgewise.models.rewriting import check_rewritable
from edgewise.quality.streaming import run_in_parts
from edgewise.schemes import get_scheme

EXACT = get_scheme("fp32")


@dataclass(frozen=True, slots=True)
class BlockSpan:
    """Blocks [first, end) of a model, 0 being the first."""

    first: int
    end: int

    def __str__(self) -> str:
        return f"blocks {self.first}-{self.end - 1}"


def check_dropped(checkpoint: Checkpoint, dropped: int) -> None:
    """Raise InputError where so many blocks cannot be dropped, ModelError where none can."""
    blocks = checkpoint.config.num_blocks
    if not 0 < dropped < blocks:
        raise InputError(
            f"{dropped} blocks cannot be dropped: '{checkpoint.model}' has {blocks}, of which one "
            f"must stay, so give 1 to {blocks - 1}"
        )
    check_rewritable(checkpoint)


def span_similarities(
    checkpoint: Checkpoint,
    ids: Tensor,
    lengths: Sequence[int],
    on_step: Callable[[str], None] = lambda step: None,
) -> dict[int, list[float]]:
    """By length n, cos(l, n) of the spans from each l on, 0 to L - n, on sequences ids [B, T]. One
    layer is in memory at a time, and the states of as many blocks as the longest span has."""
    config, loader = checkpoint.config, Loader(checkpoint, torch.device("cpu"))
    found: dict[int, list[float]] = {length: [] for length in lengths}
    before: deque[Tensor] = deque(maxlen=max(lengths) + 1)
    states = ids
    for number in range(config.num_blocks + 1):
        states = run_in_parts(config, number, loader.layer(number, EXACT), states)
        before.append(states)
        for length in lengths:
            if length <= number:
                found[length].append(similarity(before[-1 - length], states))
        on_step(f"layer {number}")
    return found


@torch.inference_mode()
def similarity(before: Tensor, after: Tensor) -> float:
    """Mean cosine of the states [..., H] of the same tokens."""
    return float(F.cosine_similarity(before, after, dim=-1).double().mean())


def most_similar(similarities: Sequence[float], length: int) -> BlockSpan:
    """The span that changes states least."""
    first = max(range(len(similarities)), key=similarities.__getitem__)
    return BlockSpan(first, first + length)


def kept_blocks(config: DecoderConfig, span: BlockSpan, replaced: bool) -> list[int]:
    """Numbers of the blocks that stay: all but the span's, of which the first one stays where it is
    what replaces the others."""
    return [n for n in range(config.num_blocks) if not span.first + replaced <= n < span.end]
