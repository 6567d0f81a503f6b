"""Layers that a device reads from its disk for every step: which of them, and how long a step takes
with them.

Two buffers take the layers in turns. While the layer in one of them computes the next one is read
into the other, so a step takes max(seconds read, seconds computed), as Edge-LLM's equation 3 has it
(arXiv 2406.15758), and what does not overlap, which `overlapped_seconds` finds by going through the
step. Between steps both buffers are filled again. Layers in memory lie evenly between the others,
so that the disk always has a buffer to read into.
"""

from collections.abc import Sequence

from edgewise.plans import Stage
from edgewise.schemes import get_scheme
from edgewise.specs import ModelSpec

BUFFERS = 2


def spread(blocks: Sequence[int], count: int) -> tuple[int, ...]:
    """So many of the blocks, evenly between the others."""
    return tuple(blocks[(2 * i + 1) * len(blocks) // (2 * count)] for i in range(count))


def streamed_bytes(model: ModelSpec, stage: Stage) -> list[int]:
    """What is read of each of a stage's layers for a step: 0 of those in memory."""
    return [
        model.layers[number].weight_bytes(get_scheme(scheme)) if number in stage.streamed else 0
        for number, scheme in enumerate(stage.schemes, stage.start)
    ]


def overlapped_seconds(computing: Sequence[float], reading: Sequence[float]) -> float:
    """Of a step through layers that take so many seconds each to compute, and to be read: 0 where
    they are in memory. Where it begins, the first ones are in the buffers."""
    now, read = 0.0, 0.0
    ends = list[float]()  # of layers from disk: then their buffers may be read into
    for computes, reads in zip(computing, reading, strict=True):
        if reads and len(ends) >= BUFFERS:
            read = max(read, ends[-BUFFERS]) + reads
            now = max(now, read)
        now += computes
        if reads:
            ends.append(now)
    return now
