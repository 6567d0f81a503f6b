"""Gradients through matrices that are not trained, whatever they are stored as.

Forward y = W x, backward dx = W^T dy: neither keeps x, nor a large W as a whole. Packed matrices
are made whole some rows at a time, up to TILE numbers, in both directions the same; a sum over
tiles is rounded once for each. The kernels, which round x to 8 bits on the way, are for blocks
through which no gradient goes.
"""

from collections.abc import Iterator
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from edgewise.kernels import backend_of
from edgewise.quantization.linear import PackedLinear
from edgewise.quantization.stacked import StackedLinear

TILE = 2**22  # numbers


def tiles(module: nn.Module, dtype: torch.dtype) -> Iterator[tuple[int, Tensor]]:
    """A matrix a few rows at a time: the first row's number, and [rows, columns]."""
    if isinstance(module, StackedLinear):
        above = 0
        for part in module.parts:
            last = above
            for first, tile in tiles(part, dtype):
                last = above + first + len(tile)
                yield above + first, tile
            above = last
        return
    if isinstance(module, PackedLinear):
        rows, native = module.shape[0], module.native()
        step = rows_at_once(module.shape[1])
        backend = backend_of(module.codes.device)
        for first in range(0, rows, step):
            end = min(first + step, rows)
            if backend is not None and native is not None and dtype is torch.bfloat16:
                yield first, backend.whole(native, first, end)
            else:
                yield first, module.packed.dequantized(first, end).to(dtype)
        return
    assert isinstance(module, nn.Linear)
    step = rows_at_once(module.weight.shape[1])
    for first in range(0, len(module.weight), step):
        yield first, module.weight[first : first + step].to(dtype)


def rows_at_once(columns: int) -> int:
    """Of a tile; kernels make 16 at a time."""
    return max(TILE // columns // 16, 1) * 16


class _Product(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, inputs: Tensor, module: nn.Module) -> Tensor:
        ctx.module = module
        parts = [F.linear(inputs, tile) for _, tile in tiles(module, inputs.dtype)]
        product = parts[0] if len(parts) == 1 else torch.cat(parts, dim=-1)
        bias = module.bias
        return product + bias.to(inputs.dtype) if isinstance(bias, Tensor) else product

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, None]:
        (gradient,) = gradients
        whole: Tensor | None = None
        for first, tile in tiles(ctx.module, gradient.dtype):
            part = gradient[..., first : first + len(tile)] @ tile
            whole = part if whole is None else whole.add_(part)
        return whole, None


class Frozen(nn.Module):
    """A matrix that is not trained, and that gradients go through."""

    def __init__(self, matrix: nn.Module) -> None:
        super().__init__()
        self.matrix = matrix

    def forward(self, inputs: Tensor) -> Tensor:
        if not torch.is_grad_enabled():
            product: Tensor = self.matrix(inputs)
            return product
        through: Tensor = _Product.apply(inputs, self.matrix)
        return through
