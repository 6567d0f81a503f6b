"""Matrices rounded to few bits and packed, in the library."""

import ctypes

import torch
from torch import Tensor

from edgewise.kernels.library import TYPES, RoundingStruct, checked, library
from edgewise.kernels.matrix import TILE, address

FLOATS = (torch.bfloat16, torch.float32, torch.float16)
COLUMNS = 32  # of a tile


def can_round(weight: Tensor) -> bool:
    """Whether the library rounds a matrix: it is there, and the numbers are where it can read."""
    here = weight.device.type == "cpu" and weight.dtype in FLOATS
    return here and weight.numel() > 0 and library() is not None


def round_matrix(
    weight: Tensor,
    by_column: Tensor,
    ranges: Tensor,
    *,
    bits: int,
    group: int,
    asymmetric: bool,
    double: bool,
) -> dict[str, Tensor]:
    """A matrix [rows, columns] for which `can_round`, all its numbers finite, in groups rounded
    as well as is possible: the tensors of a `Packed` (quantization/packed.py) by name.

    `by_column` float32 [width] is how much errors of every column count, 0 for those that fill up
    the last group; `ranges` float32 [n, 2] are the ranges that are tried (rounding/search.py)."""
    lib = library()
    assert lib is not None
    rows, columns = weight.shape
    weight = weight.detach()
    weight = weight if weight.stride(1) == 1 or columns == 1 else weight.contiguous()
    by_column, ranges = (x.float().contiguous() for x in (by_column, ranges))
    blocks, width = -(-rows // TILE), by_column.numel()
    kind, shape = torch.int8 if double else torch.bfloat16, (blocks, width // group, TILE)
    parts = {"codes": torch.empty(blocks, width // COLUMNS, bits, 64, dtype=torch.uint8)}
    for side in ("scale", "minimum") if asymmetric else ("scale",):
        parts[side] = torch.empty(shape, dtype=kind)
        if double:
            parts[f"row_{side}"] = torch.empty(blocks, TILE, dtype=torch.bfloat16)
    names = ("codes", "scale", "minimum", "row_scale", "row_minimum")
    struct = RoundingStruct(
        *map(address, (weight, by_column, ranges)),
        *(address(parts.get(name)) for name in names),
        *(rows, columns, weight.stride(0), width),
        *(TYPES[weight.dtype], bits, group, asymmetric, double, len(ranges)),
    )
    checked(lib.edgewise_round(ctypes.byref(struct), torch.get_num_threads()))
    return parts
