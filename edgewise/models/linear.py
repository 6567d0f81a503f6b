"""Floating-point matrices that a few tokens are multiplied with by the kernels."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from edgewise.kernels import NativeMatrix, backend_of

ROWS_AT_ONCE = 1024


class Linear(nn.Linear):
    """nn.Linear, but few tokens on the CPU are multiplied in float32 by the kernels, which read the
    weights several times as fast as torch does then. Weights that are still trained stay torch's:
    the kernels may hold copies of biases."""

    _native: NativeMatrix | None = None

    def native(self) -> NativeMatrix | None:
        """The matrix as the kernels see it; None where torch has to do without them."""
        weight, backend = self.weight, backend_of(self.weight.device)
        if backend is None:
            return None
        if self._native is None or self._native.source != weight.data_ptr():
            shape = (self.out_features, self.in_features)
            self._native = backend.pack(shape, {"codes": weight}, self.bias)
        return self._native

    def forward(self, inputs: Tensor) -> Tensor:
        columns, backend = self.in_features, backend_of(inputs.device)
        native = None if self.weight.requires_grad else self.native()
        if backend is None or native is None or inputs.numel() > native.most_tokens * columns:
            return self._in_torch(inputs)
        products = backend.linear(native, inputs.reshape(-1, columns).float())
        return products.to(inputs.dtype).view(*inputs.shape[:-1], self.out_features)

    def _in_torch(self, inputs: Tensor) -> Tensor:
        """In the inputs' type; weights of another one are brought to it a few rows at a time."""
        if self.weight.dtype == inputs.dtype or torch.is_autocast_enabled(inputs.device.type):
            return F.linear(inputs, self.weight, self.bias)
        parts = [
            F.linear(inputs, rows.to(inputs.dtype)) for rows in self.weight.split(ROWS_AT_ONCE)
        ]
        product = torch.cat(parts, dim=-1)
        return product if self.bias is None else product + self.bias.to(inputs.dtype)


def frozen_linear(weight: Tensor) -> Linear:
    """Of a weight that is not trained: a token is multiplied alike in any company."""
    made = Linear(weight.shape[1], weight.shape[0], bias=False, device="meta")
    made.weight = nn.Parameter(weight.contiguous(), requires_grad=False)
    return made
