"""GPTQ (Frantar et al. 2022, arXiv 2210.17323): columns are rounded one after the other, and what
rounding a column breaks, the columns after it make good, as seen through the layer's inputs.

With H = E[x x^T] of the inputs x and U the upper Cholesky factor of H^-1, a column's error e / U_ii
is taken from every later column j in proportion to U_ij (its algorithm 1). Sides are those that
`nearest` finds, before any column is rounded, so columns can go in any order: those that count most
first, as long as all others can still make good for them ("act-order").

H comes from a sample. Its off-diagonal entries are shrunk towards none, H + DAMPING diag(H): what a
few thousand tokens say about pairs of columns is worth less than what they say about each. Without
that GPTQ fits the sample and hardly beats its own diagonal (dev/LOG.md, 2026-11-26).
"""

import torch
from torch import Tensor

from edgewise.errors import QuantizationError
from edgewise.quantization.packed import Packed, filled_up, packed, shape_of
from edgewise.quantization.rounding.grid import code_range
from edgewise.quantization.rounding.nearest import column_weights, matrix_sides
from edgewise.schemes import Scheme

DAMPING = 0.1  # of each column's own second moment
AT_ONCE = 64  # columns, after which the rest of the matrix is brought up to date


def gptq(weight: Tensor, scheme: Scheme, moments: Tensor | None = None) -> Packed:
    """weight [rows, columns], moments float32 [columns, columns], E[x x^T] of its inputs. Raises
    QuantizationError."""
    if moments is None or moments.ndim != 2:
        raise QuantizationError(
            "gptq looks at what a model computes: run `edgewise quantize --rounding gptq` first"
        )
    if not torch.isfinite(moments).all():
        raise QuantizationError("gptq: the moments of the inputs are not finite")
    columns = weight.shape[1]
    whole = filled_up(weight.float(), scheme)
    _, sides = matrix_sides(whole, scheme, column_weights(moments, columns, scheme))
    steps = sides.steps.repeat_interleave(scheme.group, 1)
    least = None if sides.least is None else sides.least.repeat_interleave(scheme.group, 1)
    codes = torch.zeros_like(whole)
    order = torch.argsort(moments.diagonal(), descending=True, stable=True)
    codes[:, order] = _round_in_turn(
        whole[:, order],
        steps[:, order],
        torch.zeros_like(steps[:, order]) if least is None else least[:, order],
        _factor(moments[order][:, order]),
        code_range(scheme),
    )
    return packed(scheme, shape_of(weight), codes, sides)


def _round_in_turn(
    weight: Tensor, steps: Tensor, least: Tensor, factor: Tensor, codes: tuple[int, int]
) -> Tensor:
    """Codes [R, C] of a matrix [R, C], whose scales and minima are `steps` and `least` [R, C]."""
    left, rounded = weight.clone(), torch.empty_like(weight)
    inverse = torch.where(steps == 0, 0.0, 1.0 / steps)
    for start in range(0, weight.shape[1], AT_ONCE):
        part = slice(start, min(start + AT_ONCE, weight.shape[1]))
        errors = torch.empty_like(left[:, part])
        for i in range(part.start, part.stop):
            column = left[:, i]
            code = ((column - least[:, i]) * inverse[:, i]).round().clamp(*codes)
            error = (column - code * steps[:, i] - least[:, i]) / factor[i, i]
            left[:, i : part.stop] -= error.unsqueeze(1) * factor[i, i : part.stop]
            rounded[:, i], errors[:, i - start] = code, error
        left[:, part.stop :] -= errors @ factor[part, part.stop :]
    return rounded


def _factor(moments: Tensor) -> Tensor:
    """U [columns, columns] with U^T U = (H + DAMPING diag(H))^-1."""
    damped = moments.double()
    diagonal = damped.diagonal().clone()
    silent = diagonal <= 1e-12 * diagonal.max()  # columns that saw no input round freely
    diagonal[silent] = float(diagonal.max()) or 1.0
    damped.diagonal().copy_(torch.where(silent, diagonal, diagonal * (1 + DAMPING)))
    inverse = torch.cholesky_inverse(torch.linalg.cholesky(damped))
    factor: Tensor = torch.linalg.cholesky(inverse, upper=True).float()
    return factor
