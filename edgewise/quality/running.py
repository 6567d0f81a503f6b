"""Sequences through a shard: what is measured this way is what runs, kernels included."""

from collections.abc import Iterable, Iterator

import torch
from torch import Tensor

from edgewise.models.cache import Segment
from edgewise.models.shard import Shard


def run_sequences(shard: Shard, rows: Iterable[Tensor]) -> Iterator[Tensor]:
    """A shard on sequences one after the other, ids [T] or states [T, H], at most as long as its
    cache has room: outputs [T, ...]. Steps are as long as take the way that an answer's tokens
    take. Raises NonFinite."""
    for row in rows:
        step, parts = shard.most_tokens or len(row), []
        for start in range(0, len(row), step):
            part = row[start : start + step]
            parts.append(shard.forward(part, [Segment(0, start, len(part))]))
        shard.drop(0)
        yield torch.cat(parts)


def run_shard(shard: Shard, inputs: Tensor) -> Tensor:
    """A shard on ids [B, T] or states [B, T, H] -> [B, T, ...]."""
    return torch.stack(list(run_sequences(shard, inputs)))
