"""What adapters add to matrices, and how the library sees it."""

import ctypes
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from torch import Tensor

from edgewise.kernels.library import AdapterStruct, LowRankStruct

MOST_RANK = 1024  # kMostRank in src/matrix.h


@dataclass(frozen=True, slots=True, eq=False)
class Addition:
    """What is added to rows [first, first + rows) of a matrix's product with x: up^T (down x), of
    down [rank, columns] and up [rank, rows], float32, the adapter's scale in it."""

    first: int
    down: Tensor
    up: Tensor

    @property
    def nbytes(self) -> int:
        return self.down.nbytes + self.up.nbytes


class NativeAdapter:
    """An adapter in one block: the struct, and what it points to, kept alive. `added` has, by the
    block's matrix, what is added to it."""

    def __init__(self, added: Mapping[str, Sequence[Addition]]) -> None:
        chains = {name: _chain(parts) for name, parts in added.items() if parts}
        self._kept: object = added, chains
        self.struct = AdapterStruct(**{name: _address(chain) for name, chain in chains.items()})
        self.address = ctypes.addressof(self.struct)


def _chain(parts: Sequence[Addition]) -> list[LowRankStruct]:
    """One behind the other."""
    structs = list[LowRankStruct]()
    for part in reversed(parts):
        (rank, columns), rows = part.down.shape, part.up.shape[1]
        pointers = part.down.data_ptr(), part.up.data_ptr(), _address(structs)
        structs.insert(0, LowRankStruct(*pointers, part.first, rows, columns, rank))
    return structs


def _address(chain: Sequence[LowRankStruct]) -> int | None:
    return ctypes.addressof(chain[0]) if chain else None
