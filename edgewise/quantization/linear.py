"""Modules that hold packed matrices, in place of torch's own."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from edgewise.quantization.packed import Packed

TILE_ROWS = 1024  # of a matrix made whole at a time, which bounds the workspace


def packed_matmul(x: Tensor, packed: Packed, bias: Tensor | None = None) -> Tensor:
    """x [..., columns] of the compute type -> x @ W^T + bias [..., rows] of the same type."""
    rows = packed.shape[0]
    parts = []
    for start in range(0, rows, TILE_ROWS):
        end = min(start + TILE_ROWS, rows)
        tile = packed.dequantized(start, end).to(x.dtype)
        parts.append(F.linear(x, tile, None if bias is None else bias[start:end]))
    return parts[0] if len(parts) == 1 else torch.cat(parts, dim=-1)


class PackedModule(nn.Module):
    """A packed matrix as buffers: they move between devices and count as weights."""

    codes: Tensor
    scale: Tensor
    minimum: Tensor | None

    def __init__(self, packed: Packed) -> None:
        super().__init__()
        self.scheme, self.shape = packed.scheme, packed.shape
        self.compute_dtype = packed.compute_dtype
        self.register_buffer("codes", packed.codes)
        self.register_buffer("scale", packed.scale)
        self.register_buffer("minimum", packed.minimum)

    @property
    def packed(self) -> Packed:
        return Packed(self.scheme, self.shape, self.codes, self.scale, self.minimum)


class PackedLinear(PackedModule):
    """nn.Linear with a packed weight; the bias stays in the compute type."""

    def __init__(self, packed: Packed, bias: Tensor | None = None) -> None:
        super().__init__(packed)
        self.bias = None if bias is None else nn.Parameter(bias, requires_grad=False)

    def forward(self, x: Tensor) -> Tensor:
        return packed_matmul(x, self.packed, self.bias)


class PackedEmbedding(PackedModule):
    """nn.Embedding with a packed table: only the rows looked up are made whole."""

    def forward(self, tokens: Tensor) -> Tensor:
        return self.packed.rows(tokens).to(self.compute_dtype)
