"""An adapter as it serves: what it adds to each block's matrices, whatever it was trained as."""

from collections.abc import Mapping
from dataclasses import dataclass
from itertools import zip_longest
from pathlib import Path

from torch import Tensor

from edgewise.adapters.exits import read_exits
from edgewise.adapters.files import read_adapter
from edgewise.adapters.matrices import parts_of
from edgewise.errors import InputError
from edgewise.kernels import MOST_RANK, Addition
from edgewise.models.adapting import BlockAdapter, added_parts
from edgewise.models.config import DecoderConfig
from edgewise.models.exits import Exits
from edgewise.specs import NO_EXTRA, AddedPart, ExtraWork, Vote


@dataclass(frozen=True, slots=True, eq=False)
class Adapter:
    """By block, the first is 0; empty where nothing is added. One of windows adds to branches what
    it learned before the last window (models/branches.py), and has `exits`."""

    blocks: tuple[BlockAdapter, ...]
    branch: tuple[BlockAdapter, ...] = ()
    exits: Exits | None = None

    @property
    def block_bytes(self) -> int:
        """Memory that it takes in the block where it takes most."""
        nothing: BlockAdapter = {}
        both = zip_longest(self.blocks, self.branch, fillvalue=nothing)
        sizes = (sum(_bytes(added) for added in block) for block in both)
        return max(sizes, default=0)

    @property
    def exit_bytes(self) -> int:
        """Memory that it takes in the head."""
        return 0 if self.exits is None else self.exits.nbytes

    @property
    def work(self) -> ExtraWork:
        """What its exits have layers compute, by the block of a branch to which most is added."""
        if self.exits is None:
            return NO_EXTRA
        added = max((added_parts(block) for block in self.branch), key=_ranks, default=())
        return ExtraWork(self.exits.ends, added)


def open_adapter(
    folder: Path, config: DecoderConfig, digest: str, vote: Vote = Vote.CONFIDENCE
) -> Adapter:
    """LoRA and private ones in PEFT's layout, and those of windows, whose exits `vote`. Raises
    InputError as `read_adapter` does, and where exits are not those of this model."""
    adapter, tensors = read_adapter(folder, config, digest)
    if adapter.rank > MOST_RANK:
        raise InputError(f"{folder}: rank {adapter.rank}; served are ranks up to {MOST_RANK}")
    blocks = tuple(
        _added(block, config, tensors, adapter.scale) for block in range(config.num_blocks)
    )
    exits = read_exits(folder, config)
    if not exits:
        return Adapter(blocks)
    *before, (first, _) = exits
    own = tuple(added if block >= first else {} for block, added in enumerate(blocks))
    if vote is Vote.LAST or not before:  # nothing is asked of the others: their blocks stay plain
        return Adapter(own, exits=Exits((), vote, (exits[first, config.num_blocks],)))
    ends = tuple(end for _, end in before)
    return Adapter(own, blocks[:first], Exits(ends, vote, tuple(exits.values())))


def _added(
    block: int, config: DecoderConfig, tensors: Mapping[str, Tensor], scale: float
) -> BlockAdapter:
    added: dict[str, list[Addition]] = {}
    for matrix, parts in parts_of(config).items():
        for part, first, _ in parts:
            down, up = (tensors.get(f"{block}.{part}.{half}") for half in ("down", "up"))
            if down is not None and up is not None:
                up = (up * scale).T.contiguous()
                added.setdefault(matrix, []).append(Addition(first, down.contiguous(), up))
    return added


def _ranks(parts: tuple[AddedPart, ...]) -> int:
    return sum(part.rank for part in parts)


def _bytes(added: BlockAdapter) -> int:
    return sum(x.nbytes for parts in added.values() for x in parts)
