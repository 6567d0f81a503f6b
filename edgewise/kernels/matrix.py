"""Matrices, as the library sees them."""

import ctypes
from collections.abc import Mapping, Sequence
from copy import copy
from itertools import pairwise

import torch
from torch import Tensor

from edgewise.kernels.library import (
    PACKED,
    SPARSE,
    TYPES,
    MatrixStruct,
    checked,
    library,
    most_tokens,
)

TILE = 16  # rows


class NativeMatrix:
    """A matrix [rows, columns]: the struct that the library reads, and what it points to, kept
    alive together. All of it is on the CPU.

    Packed in `bits`: `tensors` are codes uint8 [B, T, bits, 64], scale and maybe minimum bf16 or
    fp16 [B, G, 16]; where quantized doubly int8, with row_scale and maybe row_minimum bf16 [B, 16]
    (see quantization/packed.py); `sparse`: codes [B, T, bits + 2, 64]. With 0 bits: codes
    [rows, columns] of a floating-point type of `TYPES`. `bias` [rows] or None.

    `source` is where the numbers lie; `most_tokens` beyond which torch is quicker; `parts` what it
    was stacked from, else itself alone.
    """

    def __init__(
        self,
        shape: tuple[int, int],
        tensors: Mapping[str, Tensor],
        bias: Tensor | None = None,
        bits: int = 0,
        group: int = 0,
        *,
        sparse: bool = False,
    ) -> None:
        codes = tensors["codes"]
        floats = {} if bias is None else {"bias": bias.float()}
        kept = {name: x.detach().contiguous() for name, x in {**tensors, **floats}.items()}
        dtype = None if bits else codes.dtype
        packed = SPARSE if sparse else PACKED
        kind = packed if dtype is None else TYPES[dtype]
        self.shape, self.source, self.most_tokens = shape, codes.data_ptr(), most_tokens(dtype)
        self._parts: tuple[NativeMatrix, ...] = ()
        pointers = {name: x.data_ptr() for name, x in kept.items()}
        rows, columns = shape
        sides = TYPES[kept["scale"].dtype] if bits else 0
        self.struct = MatrixStruct(
            **pointers, rows=rows, columns=columns, bits=bits, group=group, type=kind, sides=sides
        )
        self._kept: object = kept

    @property
    def parts(self) -> tuple["NativeMatrix", ...]:
        # No matrix refers to itself: its weights would stay until the collector comes.
        return self._parts or (self,)

    @staticmethod
    def stacked(parts: Sequence["NativeMatrix"], bias: Tensor | None = None) -> "NativeMatrix":
        """Matrices below each other, of the same columns but each in its own scheme or type, as
        one; they stay as they are. With `bias` [rows], it takes the place of the parts' own. Raises
        ValueError where they differ in columns, or are none."""
        columns = {part.shape[1] for part in parts}
        if len(columns) != 1:
            raise ValueError(f"matrices below each other need the same columns, not {columns}")
        structs = [MatrixStruct.from_buffer_copy(x.struct) for part in parts for x in part.parts]
        for above, below in pairwise(structs):
            above.next = ctypes.addressof(below)
        floats, row = None if bias is None else bias.detach().float().contiguous(), 0
        for struct in structs:
            if floats is not None:
                struct.bias = floats[row:].data_ptr()
            row += struct.rows
        whole = copy(parts[0])
        whole.shape = (sum(part.shape[0] for part in parts), parts[0].shape[1])
        whole.most_tokens = min(part.most_tokens for part in parts)
        whole._parts = tuple(x for part in parts for x in part.parts)
        whole.struct, whole._kept = structs[0], (structs, floats, list(parts))
        return whole


def address(tensor: Tensor | None) -> int | None:
    return None if tensor is None else tensor.data_ptr()


def linear(matrix: NativeMatrix, inputs: Tensor) -> Tensor:
    """inputs float32 [tokens, columns] -> inputs @ W^T + bias, float32 [tokens, rows]. For a packed
    matrix inputs x are rounded to 8 bits, a scale for every group of columns, which adds at most
    |w| |x|_max / 254 to a product."""
    lib = library()
    assert lib is not None
    inputs = inputs.contiguous()
    products = torch.empty(len(inputs), matrix.shape[0])
    threads = torch.get_num_threads()
    checked(
        lib.edgewise_linear(
            ctypes.byref(matrix.struct),
            inputs.data_ptr(),
            len(inputs),
            products.data_ptr(),
            threads,
        )
    )
    return products


def dequantize(matrix: NativeMatrix, start: int, end: int) -> Tensor:
    """Rows [start, end) of a packed matrix, or of packed ones stacked, as bf16
    [end - start, columns]. Reads whole tiles of 16 rows."""
    pieces, above = [], 0  # rows above the part
    for part in matrix.parts:
        first, last = max(start - above, 0), min(end - above, part.shape[0])
        if first < last:
            pieces.append(_dequantize(part, first, last))
        above += part.shape[0]
    return pieces[0] if len(pieces) == 1 else torch.cat(pieces)


def _dequantize(matrix: NativeMatrix, start: int, end: int) -> Tensor:
    """The same of a single matrix."""
    lib = library()
    assert lib is not None
    first, last = start // TILE, -(-end // TILE)
    rows = min(last * TILE, matrix.shape[0]) - first * TILE
    tiles = torch.empty(rows, matrix.shape[1], dtype=torch.bfloat16)
    checked(
        lib.edgewise_whole(
            ctypes.byref(matrix.struct), first, last, tiles.data_ptr(), torch.get_num_threads()
        )
    )
    return tiles[start - first * TILE :][: end - start]
