"""Layers that are only timed, with what adapters have them do beside the model's own work."""

from collections.abc import Callable, Mapping, Sequence

import torch
from torch import Tensor

from edgewise.adapters import AdapterConfig, Kind
from edgewise.kernels import Addition
from edgewise.models.branches import branch_adapter
from edgewise.models.decoder import Block
from edgewise.models.exits import ExitMatrices, HeldExits
from edgewise.models.shard import Shard
from edgewise.runtime.worker.private import have_ask
from edgewise.specs import AddedPart, ExtraWork, PrivateParts, Vote

ADAPTER = 1  # by which segments name it


def add_work(shard: Shard, extra: ExtraWork) -> None:
    """Numbers are drawn, and answers to what blocks ask are there at once: the way is not the
    layers'."""
    if extra.private is not None:
        _have_blocks_ask(shard, extra.private)
    if extra.exits and shard.end == shard.config.num_layers:
        _have_exits_vote(shard, extra)
    elif extra.branches:
        _have_branches(shard, extra)


def _have_blocks_ask(shard: Shard, private: PrivateParts) -> None:
    matrices = tuple(part for parts in private.matrices for part in parts)
    adapter = AdapterConfig(Kind.PRIVATE, private.rank, matrices=matrices)
    for number, block in enumerate(shard.layers, start=max(shard.start - 1, 0)):
        if isinstance(block, Block):
            have_ask(block, number, shard.config, adapter, _answered)


def _answered(block: int, matrix: str, low: Tensor) -> Callable[[], Tensor]:
    return lambda: low


def _have_exits_vote(shard: Shard, extra: ExtraWork) -> None:
    """What came out of the windows before is there, as it is behind all of them."""
    size = shard.config.hidden_size
    exits = HeldExits(tuple(range(1, extra.exits)), Vote.CONFIDENCE)
    for number in range(extra.exits):
        turn = torch.randn(size, size) * 0.01
        exits.hold(number, ExitMatrices(torch.ones(size), turn), shard.device)
    shard.adapters.exits[ADAPTER] = exits
    _have_added(shard, {ADAPTER: extra.added})


def _have_branches(shard: Shard, extra: ExtraWork) -> None:
    """Blocks of windows, the last one taken to have a branch, too."""
    ends = (*(extra.ends or ()), shard.config.num_layers)
    shard.adapters.exits[ADAPTER] = HeldExits(ends, Vote.CONFIDENCE)
    _have_added(shard, {ADAPTER: (), branch_adapter(ADAPTER): extra.added})


def _have_added(shard: Shard, parts: Mapping[int, Sequence[AddedPart]]) -> None:
    """By the number of an adapter, or of its branches."""
    for block in range(sum(isinstance(layer, Block) for layer in shard.layers)):
        for adapter, added in parts.items():
            drawn: dict[str, list[Addition]] = {}
            for part in added:
                down = torch.randn(part.rank, part.columns) / part.columns**0.5
                addition = Addition(part.first, down, torch.randn(part.rank, part.rows) * 0.01)
                drawn.setdefault(part.matrix, []).append(addition)
            shard.adapters.hold(adapter, block, drawn)
