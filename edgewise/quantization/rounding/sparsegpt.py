"""SparseGPT (Frantar & Alistarh 2023, arXiv 2301.00774, algorithm 1): weights become zero column by
column, and what that breaks, the columns after it make good, as seen through the layer's inputs.

With H = E[x x^T] of the inputs x and U the upper Cholesky factor of H^-1, setting w_i to zero costs
w_i^2 / U_ii^2 once all columns before it are settled (its equation 3), and is taken from every
later column j in proportion to U_ij. Which weights go is decided for a band of columns at a time:
those of it that then cost least, so it is seen which weights the bands before have made larger.

The same U rounds what is left (gptq.py). H is shrunk as there.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from edgewise.errors import InputError, QuantizationError

DAMPING = 0.3  # of each column's own second moment
BAND = 128  # columns; the paper's choice


@dataclass(frozen=True, slots=True)
class Sparsity:
    """`share` of a matrix's weights become zero; `among` so many neighbours in a row, exactly that
    share of them, 0: wherever they cost least. Raises InputError."""

    share: float
    among: int = 0

    def __post_init__(self) -> None:
        if not 0 <= self.share <= 1:
            raise InputError(f"sparsity {self.share:g} is no share of weights, between 0 and 1")
        if self.among < 0 or self.share * self.among % 1:
            raise InputError(f"sparsity {self.share:g} is no whole number of {self.among}")


SEMI_STRUCTURED = Sparsity(0.5, 4)  # 2:4


@dataclass(frozen=True, slots=True)
class Pruned:
    """`weight` float32 [rows, columns], of which what is not to `keep`, bool of the same shape, is
    exactly 0."""

    weight: Tensor
    keep: Tensor

    def rows(self, part: slice) -> "Pruned":
        """Some of the rows."""
        return Pruned(self.weight[part], self.keep[part])


def prune(
    weight: Tensor, moments: Tensor, sparsity: Sparsity, factor: Tensor | None = None
) -> Pruned:
    """weight [rows, columns] of any float type, moments float32 [columns, columns], E[x x^T] of its
    inputs, and their `inverse_factor` where that is known. Raises QuantizationError where columns
    are no whole groups of neighbours."""
    rows, columns = weight.shape
    if sparsity.among and columns % sparsity.among:
        raise QuantizationError(
            f"{columns} columns are no whole groups of {sparsity.among}: prune without a pattern"
        )
    factor = inverse_factor(moments) if factor is None else factor
    diagonal = factor.diagonal().unsqueeze(1)
    # What nothing was seen of costs nothing: it goes first.
    cost = torch.where(silent(moments).unsqueeze(1), 0.0, diagonal**-2)
    by_diagonal, errors = factor / diagonal, torch.empty(min(BAND, columns), rows)
    left = torch.empty(columns, rows).copy_(weight.T)  # columns lie together in memory
    keep = torch.ones(columns, rows, dtype=torch.bool)
    for start in range(0, columns, BAND):
        band = slice(start, min(start + BAND, columns))
        if not sparsity.among:
            settled = start * rows - int(keep[:start].sum())
            count = round(sparsity.share * band.stop * rows) - settled
            keep[band] = _all_but(left[band].square() * cost[band], count)
        for i in range(band.start, band.stop):
            if sparsity.among and i % sparsity.among == 0:
                near = slice(i, i + sparsity.among)
                count = int(sparsity.share * sparsity.among)
                keep[near] = _of_each(left[near].square() * cost[near], count)
            error = errors[i - start].copy_(left[i]).masked_fill_(keep[i], 0.0)
            left[i].masked_fill_(~keep[i], 0.0)
            left[i + 1 : band.stop].addr_(by_diagonal[i, i + 1 : band.stop], error, alpha=-1.0)
        left[band.stop :].addmm_(
            by_diagonal[band, band.stop :].T, errors[: band.stop - start], alpha=-1.0
        )
    return Pruned(left.T.contiguous(), keep.T.contiguous())


def _all_but(costs: Tensor, count: int) -> Tensor:
    """Which of costs [C, R] are not the `count` least."""
    keep = torch.ones(costs.numel(), dtype=torch.bool)
    keep[costs.flatten().topk(count, largest=False, sorted=False).indices] = False
    return keep.view_as(costs)


def _of_each(costs: Tensor, count: int) -> Tensor:
    """Which of costs [C, R] are not the `count` least of their row of the matrix."""
    least = costs.topk(count, dim=0, largest=False, sorted=False).indices
    return torch.ones_like(costs, dtype=torch.bool).scatter_(0, least, value=False)


def silent(moments: Tensor) -> Tensor:
    """The columns [columns] that saw no input."""
    diagonal = moments.diagonal().double()
    return diagonal <= 1e-12 * diagonal.max()


def inverse_factor(moments: Tensor) -> Tensor:
    """U [columns, columns], upper, with U^T U = (H + DAMPING diag(H))^-1: the inverse of V, upper,
    with V V^T = H + DAMPING diag(H), which is the Cholesky factor of the columns in reverse."""
    damped, unseen = moments.double(), silent(moments)
    diagonal = damped.diagonal().clone()
    diagonal[unseen] = float(diagonal.max()) or 1.0  # they round freely
    damped.diagonal().copy_(torch.where(unseen, diagonal, diagonal * (1 + DAMPING)))
    lower = torch.linalg.cholesky(damped.flip(0, 1))
    one = torch.eye(len(damped), dtype=torch.float64, device=damped.device)
    factor: Tensor = torch.linalg.solve_triangular(lower, one, upper=False).flip(0, 1)
    return factor.float()
