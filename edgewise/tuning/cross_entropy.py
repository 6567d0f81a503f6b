"""Cross-entropy by a head's matrix, which is neither whole nor multiplied twice.

With inputs x_n, rows w_v of the matrix and targets t_n, the loss and its gradient are

    L = mean over n of log(sum over v of exp(w_v x_n)) - w_t x_n
    dL/dx_n = (sum over v of p_nv w_v - w_t) / N        p_nv = exp(w_v x_n) / sum of exp(w x_n)

Both sums are kept as rows go by, relative to the largest product so far (Milakov and Gimelshein
2018, "online softmax"), so the matrix is unpacked once a step and no logits are kept.
"""

from typing import Any

import torch
from torch import Tensor, nn

from edgewise.tuning.frozen import tiles


class _CrossEntropy(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, inputs: Tensor, targets: Tensor, matrix: nn.Module, dtype: torch.dtype
    ) -> Tensor:
        most = torch.full_like(targets, -torch.inf, dtype=torch.float32)
        total, hit = torch.zeros_like(most), torch.zeros_like(most)
        mean, own = torch.zeros_like(inputs), torch.zeros_like(inputs)
        bias = matrix.bias
        for first, tile in tiles(matrix, dtype):
            rows = tile.float()
            logits = inputs @ rows.T
            if isinstance(bias, Tensor):
                logits += bias[first : first + len(rows)]
            larger = torch.maximum(most, logits.amax(1))
            shrink, terms = (most - larger).exp(), (logits - larger[:, None]).exp()
            most, total = larger, total * shrink + terms.sum(1)
            mean = mean * shrink[:, None] + terms @ rows
            here = ((targets >= first) & (targets < first + len(rows))).nonzero()[:, 0]
            places = targets[here] - first
            hit[here], own[here] = logits[here, places], rows[places]
        ctx.gradient = (mean / total[:, None] - own) / len(targets)
        return (most + total.log() - hit).mean()

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None, None, None]:
        return gradients[0] * ctx.gradient, None, None, None


def head_cross_entropy(
    inputs: Tensor, targets: Tensor, matrix: nn.Module, dtype: torch.dtype
) -> Tensor:
    """Mean nats of `targets` [N] by logits W x, float32: inputs [N, H] float32, W [vocabulary, H]
    unpacked in `dtype`, not trained."""
    nats: Tensor = _CrossEntropy.apply(inputs, targets, matrix, dtype)
    return nats
