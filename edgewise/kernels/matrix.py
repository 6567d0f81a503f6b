"""One packed matrix, as the library sees it."""

import ctypes
from collections.abc import Mapping

import torch
from torch import Tensor

from edgewise.kernels.library import PACKED, TYPES, Matrix, checked, library, most_tokens

TILE = 16  # rows


class NativeMatrix:
    """Numbers and bias of a matrix, kept alive together with the struct that points to them. All of
    them are on the CPU; `bias` is [rows] or None."""

    def __init__(
        self,
        shape: tuple[int, int],
        parts: tuple[Tensor, Tensor | None, Tensor | None],
        bias: Tensor | None,
        bits: int = 0,
        group: int = 0,
    ) -> None:
        self.shape, self.source = shape, parts[0].data_ptr()
        floats = None if bias is None else bias.detach().float()
        self._kept = [None if x is None else x.detach().contiguous() for x in (*parts, floats)]
        dtype = None if bits else parts[0].dtype
        self.most_tokens = most_tokens(dtype)  # beyond them torch is quicker
        kind = PACKED if dtype is None else TYPES[dtype]
        self.struct = Matrix(*map(address, self._kept), *shape, bits, group, kind)

    @staticmethod
    def packed(
        shape: tuple[int, int],
        bits: int,
        group: int,
        tensors: Mapping[str, Tensor],
        bias: Tensor | None = None,
    ) -> "NativeMatrix":
        """`tensors`: codes uint8 [B, T, bits, 64], scale and maybe minimum bf16 [B, G, 16] (see
        quantization/packed.py)."""
        parts = (tensors["codes"], tensors["scale"], tensors.get("minimum"))
        return NativeMatrix(shape, parts, bias, bits, group)

    @staticmethod
    def plain(weight: Tensor, bias: Tensor | None = None) -> "NativeMatrix":
        """weight [rows, columns] of a floating-point type of `TYPES`."""
        rows, columns = weight.shape
        return NativeMatrix((rows, columns), (weight, None, None), bias)


def address(x: Tensor | None) -> int | None:
    return None if x is None else x.data_ptr()


def linear(matrix: NativeMatrix, x: Tensor) -> Tensor:
    """x float32 [tokens, columns] -> x @ W^T + bias, float32 [tokens, rows]. For a packed matrix x
    is rounded to 8 bits, a scale for every group of columns, which adds at most |w| |x|_max / 254
    to a product."""
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


def dequantize(matrix: NativeMatrix, start: int, end: int) -> Tensor:
    """Rows [start, end) of a packed matrix as bf16 [end - start, columns]; start is a multiple of
    16."""
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
