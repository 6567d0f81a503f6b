"""What adapters add to the blocks of a shard, each to the sequences that ask for it."""

from collections.abc import Mapping, Sequence
from itertools import accumulate, pairwise

import torch
import torch.nn.functional as F
from torch import Tensor

from edgewise.kernels import Addition, NativeAdapter, backend_of
from edgewise.models.branches import branch_adapter
from edgewise.models.cache import Segment
from edgewise.models.decoder import Adapt, as_it_is
from edgewise.models.exits import HeldExits
from edgewise.specs import AddedPart

# By a block's matrix, what is added to its parts.
BlockAdapter = Mapping[str, Sequence[Addition]]


def added_parts(added: BlockAdapter) -> tuple[AddedPart, ...]:
    """What of a block's matrices something is added to."""
    return tuple(
        AddedPart(matrix, x.first, x.up.shape[1], x.down.shape[1], x.down.shape[0])
        for matrix, additions in added.items()
        for x in additions
    )


class HeldAdapters:
    """Of a shard's blocks, by the numbers that segments name adapters by; 0 is none. Additions are
    made in float32, in torch segment by segment, so that a sequence's do not depend on its company.
    `exits` are of those adapters that have windows; what they add to branches goes by numbers of
    its own (branches.py)."""

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._held: dict[int, dict[int, BlockAdapter]] = {}  # by adapter, by block of the shard
        self._native: dict[int, dict[int, NativeAdapter | None]] = {}
        self.exits: dict[int, HeldExits] = {}

    @property
    def nbytes(self) -> int:
        blocks = [block for held in self._held.values() for block in held.values()]
        return sum(x.nbytes for block in blocks for parts in block.values() for x in parts)

    def hold(self, number: int, block: int, added: BlockAdapter) -> None:
        """From now on an adapter is here for a block; nothing in `added`: it leaves it as it is."""
        backend, on = backend_of(self._device), self._device
        here = {
            name: [Addition(x.first, x.down.to(on).contiguous(), x.up.to(on).contiguous())
                   for x in parts]
            for name, parts in added.items()
        }  # fmt: skip
        self._held.setdefault(number, {})[block] = here
        native = backend.adapter(here) if backend is not None and here else None
        self._native.setdefault(number, {})[block] = native

    def ends(self, number: int) -> tuple[int, ...]:
        """Of an adapter's windows but the last, by the model's number of the block behind each."""
        exits = self.exits.get(number)
        return exits.ends if exits is not None else ()

    def forget(self, number: int) -> None:
        self.exits.pop(number, None)
        for each in (number, branch_adapter(number)):
            self._held.pop(each, None)
            self._native.pop(each, None)

    def native(
        self, blocks: range, segments: Sequence[Segment]
    ) -> list[list[NativeAdapter | None]]:
        """For the kernels: of each block what is added to each segment; empty where nothing is.
        Raises RuntimeError for what is not here."""
        if not any(segment.adapter for segment in segments):
            return []
        self._check(blocks, segments)
        return [
            [self._native[s.adapter][block] if s.adapter else None for s in segments]
            for block in blocks
        ]

    def adapt(self, block: int, segments: Sequence[Segment]) -> Adapt:
        """For torch, where the segments' tokens lie one after the other. Raises RuntimeError for
        what is not here."""
        if not any(segment.adapter for segment in segments):
            return as_it_is
        self._check(range(block, block + 1), segments)
        ends = pairwise([0, *accumulate(segment.length for segment in segments)])
        rows = [
            (slice(*end), self._held[segment.adapter][block])
            for segment, end in zip(segments, ends, strict=True)
            if segment.adapter
        ]

        def adapt(matrix: str, inputs: Tensor, product: Tensor) -> Tensor:
            product = product.clone()
            for tokens, added in rows:
                for part in added.get(matrix, ()):
                    low = F.linear(inputs[tokens].float(), part.down)
                    adds = (low @ part.up).to(product.dtype)
                    product[tokens, part.first : part.first + part.up.shape[1]] += adds
            return product

        return adapt

    def _check(self, blocks: range, segments: Sequence[Segment]) -> None:
        for segment in segments:
            if segment.adapter and not self._held.get(segment.adapter, {}).keys() >= set(blocks):
                raise RuntimeError(f"adapter {segment.adapter} is not here")
