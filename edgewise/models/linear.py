"""Floating-point matrices that a few tokens are multiplied with by the kernels."""

import torch.nn.functional as F
from torch import Tensor, nn

from edgewise import kernels
from edgewise.kernels import NativeMatrix


class Linear(nn.Linear):
    """nn.Linear, but few tokens on the CPU are multiplied in float32 by the kernels, which read the
    weights several times as fast as torch does then. Weights that are still trained stay torch's:
    the kernels may hold copies of biases."""

    _native: NativeMatrix | None = None

    def native(self) -> NativeMatrix | None:
        """The matrix as the kernels see it; None where torch has to do without them."""
        weight = self.weight
        known = weight.device.type == "cpu" and weight.dtype in kernels.TYPES
        if not kernels.available() or not known:
            return None
        if self._native is None or self._native.source != weight.data_ptr():
            self._native = NativeMatrix.plain(weight, self.bias)
        return self._native

    def forward(self, x: Tensor) -> Tensor:
        columns = self.in_features
        native = None if self.weight.requires_grad else self.native()
        if native is None or x.numel() > native.most_tokens * columns:
            return F.linear(x, self.weight, self.bias)
        found = kernels.linear(native, x.reshape(-1, columns).float())
        return found.to(x.dtype).view(*x.shape[:-1], self.out_features)
