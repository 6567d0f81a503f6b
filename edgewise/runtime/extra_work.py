"""Layers that are only timed, with what adapters have them do beside the model's own work."""

from collections.abc import Callable

import torch
from torch import Tensor

from edgewise.adapters import AdapterConfig, Kind
from edgewise.models.decoder import Block
from edgewise.models.exits import ExitMatrices, HeldExits
from edgewise.models.shard import Shard
from edgewise.runtime.private import have_ask
from edgewise.specs import ExtraWork, PrivateParts, Vote

ADAPTER = 1  # by which segments name it


def add_work(shard: Shard, extra: ExtraWork) -> None:
    """Numbers are drawn, and answers to what blocks ask are there at once: the way is not the
    layers'."""
    if extra.private is not None:
        _have_blocks_ask(shard, extra.private)
    if extra.exits and shard.end == shard.config.num_layers:
        _have_exits_vote(shard, extra.exits)


def _have_blocks_ask(shard: Shard, private: PrivateParts) -> None:
    matrices = tuple(part for parts in private.matrices for part in parts)
    adapter = AdapterConfig(Kind.PRIVATE, private.rank, matrices=matrices)
    for number, block in enumerate(shard.layers, start=max(shard.start - 1, 0)):
        if isinstance(block, Block):
            have_ask(block, number, shard.config, adapter, _answered)


def _answered(block: int, matrix: str, low: Tensor) -> Callable[[], Tensor]:
    return lambda: low


def _have_exits_vote(shard: Shard, count: int) -> None:
    """What came out of the windows before is there, as it is behind all of them."""
    size, exits = shard.config.hidden_size, HeldExits(tuple(range(1, count)), Vote.CONFIDENCE)
    for number in range(count):
        turn = torch.randn(size, size) * 0.01
        exits.hold(number, ExitMatrices(torch.ones(size), turn), shard.device)
    shard.adapters.exits[ADAPTER] = exits
    for block in range(sum(isinstance(layer, Block) for layer in shard.layers)):
        shard.adapters.hold(ADAPTER, block, {})
