"""GPTQ (Frantar et al. 2022, arXiv 2210.17323): columns are rounded one after the other, and what
rounding a column breaks, the columns after it make good, as seen through the layer's inputs.

With H = E[x x^T] of the inputs x and U the upper Cholesky factor of H^-1, a column's error e / U_ii
is taken from every later column j in proportion to U_ij (its algorithm 1). Sides are those that
`nearest` finds, before any column is rounded, so columns can go in any order: those that count most
first, as long as all others can still make good for them ("act-order").

H comes from a sample. Its off-diagonal entries are shrunk towards none, H + DAMPING diag(H): what a
few thousand tokens say about pairs of columns is worth less than what they say about each. Without
that GPTQ fits the sample and hardly beats its own diagonal (dev/LOG.md, 2026-11-26). Where it ends
is where descent.py begins.
"""

import torch
from torch import Tensor

from edgewise.errors import QuantizationError
from edgewise.quantization.packed import Packed, filled_up, joined, packed, shape_of
from edgewise.quantization.rounding.descent import descend
from edgewise.quantization.rounding.grid import code_range, inverse
from edgewise.quantization.rounding.nearest import column_weights, matrix_sides
from edgewise.schemes import TILE_ROWS, Scheme

DAMPING = 0.3  # of each column's own second moment
AT_ONCE = 2**23  # weights
COLUMNS_AT_ONCE = 64  # after which the rest of the matrix is brought up to date


def gptq(weight: Tensor, scheme: Scheme, moments: Tensor | None = None) -> Packed:
    """weight [rows, columns], moments float32 [columns, columns], E[x x^T] of its inputs. Raises
    QuantizationError."""
    if moments is None or moments.ndim != 2:
        raise QuantizationError(
            "gptq looks at what a model computes: run `edgewise quantize --rounding gptq` first"
        )
    if not torch.isfinite(moments).all():
        raise QuantizationError("gptq: the moments of the inputs are not finite")
    order = torch.argsort(moments.diagonal(), descending=True, stable=True)
    factor = _factor(moments[order][:, order])
    step = max(AT_ONCE // weight.shape[1] // TILE_ROWS, 1) * TILE_ROWS
    parts = (weight[i : i + step] for i in range(0, len(weight), step))
    return joined([_gptq(part, scheme, moments, order, factor) for part in parts])


def _gptq(weight: Tensor, scheme: Scheme, moments: Tensor, order: Tensor, factor: Tensor) -> Packed:
    """The same for some rows, given the order of the columns and their factor in that order."""
    width, group = weight.shape[1], order // scheme.group
    sides = matrix_sides(weight, scheme, column_weights(moments, width, scheme))
    columns = filled_up(weight, scheme).T[:width].float().contiguous()
    steps = sides.steps.T[group]
    least = torch.zeros_like(columns) if sides.least is None else sides.least.T[group]
    codes = torch.zeros(scheme.width(width), columns.shape[1])
    codes[order] = _round_in_turn(columns[order], steps, least, factor, code_range(scheme))
    codes[:width], sides = descend(columns, codes[:width], sides, moments, scheme)
    return packed(scheme, shape_of(weight), codes.T, sides)


def _round_in_turn(
    left: Tensor, steps: Tensor, least: Tensor, factor: Tensor, codes: tuple[int, int]
) -> Tensor:
    """Codes [C, R] of a matrix's columns, `left` [C, R], which is overwritten; `steps` and `least`
    [C, R] are their scales and minima. Columns are rows here: they lie together in memory."""
    rounded, errors = torch.empty_like(left), torch.empty_like(left[:COLUMNS_AT_ONCE])
    by_step = inverse(steps)
    by_diagonal = factor / factor.diagonal().unsqueeze(1)
    for start in range(0, len(left), COLUMNS_AT_ONCE):
        part = slice(start, min(start + COLUMNS_AT_ONCE, len(left)))
        for i in range(part.start, part.stop):
            column, code, error = left[i], rounded[i], errors[i - start]
            torch.sub(column, least[i], out=error)
            torch.mul(error, by_step[i], out=code).round_().clamp_(*codes)
            error.addcmul_(code, steps[i], value=-1.0)
            left[i + 1 : part.stop].addr_(by_diagonal[i, i + 1 : part.stop], error, alpha=-1.0)
        left[part.stop :].addmm_(
            by_diagonal[part, part.stop :].T, errors[: part.stop - start], alpha=-1.0
        )
    return rounded


def _factor(moments: Tensor) -> Tensor:
    """U [columns, columns], upper, with U^T U = (H + DAMPING diag(H))^-1: the inverse of V, upper,
    with V V^T = H + DAMPING diag(H), which is the Cholesky factor of the columns in reverse."""
    damped = moments.double()
    diagonal = damped.diagonal().clone()
    silent = diagonal <= 1e-12 * diagonal.max()  # columns that saw no input round freely
    diagonal[silent] = float(diagonal.max()) or 1.0
    damped.diagonal().copy_(torch.where(silent, diagonal, diagonal * (1 + DAMPING)))
    lower = torch.linalg.cholesky(damped.flip(0, 1))
    one = torch.eye(len(damped), dtype=torch.float64, device=damped.device)
    factor: Tensor = torch.linalg.solve_triangular(lower, one, upper=False).flip(0, 1)
    return factor.float()
