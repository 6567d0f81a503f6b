"""Modules that hold packed matrices, in place of torch's own."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from edgewise.kernels import NativeMatrix, backend_of
from edgewise.quantization.packed import Packed
from edgewise.schemes import Family

TILE_ROWS = 1024  # of a matrix made whole at a time, which bounds the workspace


def packed_matmul(
    inputs: Tensor, packed: Packed, bias: Tensor | None = None, native: NativeMatrix | None = None
) -> Tensor:
    """inputs [..., columns] of the compute type -> inputs @ W^T + bias [..., rows] of the same
    type. With `native` the kernels do it in integers, or make the matrix whole where that is
    quicker."""
    rows, backend = packed.shape[0], backend_of(inputs.device)
    if backend and native and inputs.numel() <= native.most_tokens * packed.shape[1]:
        products = backend.linear(native, inputs.reshape(-1, packed.shape[1]).float())
        return products.to(inputs.dtype).view(*inputs.shape[:-1], rows)
    parts = []
    for start in range(0, rows, TILE_ROWS):
        end = min(start + TILE_ROWS, rows)
        if backend and native:
            tile = backend.whole(native, start, end).to(inputs.dtype)
        else:
            tile = packed.dequantized(start, end).to(inputs.dtype)
        own = None if bias is None else bias[start:end].to(inputs.dtype)
        parts.append(F.linear(inputs, tile, own))
    return parts[0] if len(parts) == 1 else torch.cat(parts, dim=-1)


class PackedModule(nn.Module):
    """A packed matrix as buffers: they move between devices and count as weights."""

    codes: Tensor

    def __init__(self, packed: Packed) -> None:
        super().__init__()
        self.scheme, self.shape = packed.scheme, packed.shape
        self.compute_dtype = packed.compute_dtype
        for name, tensor in packed.tensors.items():
            self.register_buffer(name, tensor)

    @property
    def packed(self) -> Packed:
        return Packed(self.scheme, self.shape, **dict(self.named_buffers()))


class PackedLinear(PackedModule):
    """nn.Linear with a packed weight; the bias stays in the compute type."""

    def __init__(self, packed: Packed, bias: Tensor | None = None) -> None:
        super().__init__(packed)
        self.bias = None if bias is None else nn.Parameter(bias, requires_grad=False)
        self._native: NativeMatrix | None = None

    def native(self) -> NativeMatrix | None:
        """The matrix as the kernels see it; None where torch has to do without them."""
        scheme, backend = self.scheme, backend_of(self.codes.device)
        if backend is None or scheme.family is not Family.GROUPED:
            return None
        if self._native is None or self._native.source != self.codes.data_ptr():
            tensors, bias = self.packed.tensors, self.bias
            self._native = backend.pack(
                self.shape, tensors, bias, scheme.bits, scheme.group, sparse=scheme.sparse
            )
        return self._native

    def forward(self, inputs: Tensor) -> Tensor:
        return packed_matmul(inputs, self.packed, self.bias, self.native())


class PackedEmbedding(PackedModule):
    """nn.Embedding with a packed table: only the rows looked up are made whole."""

    def forward(self, tokens: Tensor) -> Tensor:
        return self.packed.rows(tokens).to(self.compute_dtype)
