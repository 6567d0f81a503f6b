"""One packed matrix, as the library sees it."""

import ctypes

import torch
from torch import Tensor

from edgewise.kernels.library import Matrix, checked, library

TILE = 16  # rows


class Packing:
    """Codes, scales and bias of a matrix, kept alive together with the struct that points to them.

    codes uint8 [B, T, bits, 64], scale and minimum bf16 [B, G, 16] (see quantization/packed.py),
    bias [rows] or None, all on the CPU.
    """

    def __init__(
        self,
        shape: tuple[int, int],
        bits: int,
        group: int,
        codes: Tensor,
        scale: Tensor,
        minimum: Tensor | None = None,
        bias: Tensor | None = None,
    ) -> None:
        self.shape, self.codes = shape, codes
        bias = None if bias is None else bias.detach().float()
        self._kept = [None if x is None else x.contiguous() for x in (codes, scale, minimum, bias)]
        self.struct = Matrix(*[address(x) for x in self._kept], *shape, bits, group)


def address(x: Tensor | None) -> int | None:
    return None if x is None else x.data_ptr()


def linear(matrix: Packing, x: Tensor) -> Tensor:
    """x float32 [tokens, columns] -> x @ W^T + bias, float32 [tokens, rows]. x is rounded to 8
    bits, a scale for every group of columns, which adds at most |w| |x|_max / 254 to a product."""
    lib = library()
    assert lib is not None
    x = x.contiguous()
    out = torch.empty(len(x), matrix.shape[0])
    threads = torch.get_num_threads()
    checked(
        lib.edgewise_linear(
            ctypes.byref(matrix.struct), x.data_ptr(), len(x), out.data_ptr(), threads
        )
    )
    return out


def dequantize(matrix: Packing, start: int, end: int) -> Tensor:
    """Rows [start, end) as bf16 [end - start, columns]; start is a multiple of 16."""
    lib = library()
    assert lib is not None
    out = torch.empty(end - start, matrix.shape[1], dtype=torch.bfloat16)
    first, last = start // TILE, -(-end // TILE)
    if end % TILE and end != matrix.shape[0]:
        whole = dequantize(matrix, start, min(last * TILE, matrix.shape[0]))
        return whole[: end - start]
    checked(
        lib.edgewise_whole(
            ctypes.byref(matrix.struct), first, last, out.data_ptr(), torch.get_num_threads()
        )
    )
    return out
