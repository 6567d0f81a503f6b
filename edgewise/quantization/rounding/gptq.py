"""GPTQ (Frantar et al. 2022, arXiv 2210.17323): columns are rounded one after the other, and what
rounding a column breaks, the columns after it make good, as seen through the layer's inputs.

With H = E[x x^T] of the inputs x and U the upper Cholesky factor of H^-1, a column's error e / U_ii
is taken from every later column j in proportion to U_ij (its algorithm 1). Sides are those that
`nearest` finds, before any column is rounded, so columns can go in any order: those that count most
first, as long as all others can still make good for them ("act-order").

H comes from a sample. Its off-diagonal entries are shrunk towards none, H + DAMPING diag(H): what a
few thousand tokens say about pairs of columns is worth less than what they say about each. Without
that GPTQ fits the sample and hardly beats its own diagonal (dev/LOG.md, 2026-11-26). A column that
was rounded early knew nothing of those after it, so all are looked at again (coordinate descent, as
in QuantEase: Behdin et al. 2023, arXiv 2309.01885): 3 to 4 % less error on other text.
"""

import torch
from torch import Tensor

from edgewise.errors import QuantizationError
from edgewise.quantization.packed import Packed, filled_up, packed, shape_of
from edgewise.quantization.rounding.grid import code_range
from edgewise.quantization.rounding.nearest import column_weights, matrix_sides
from edgewise.schemes import Scheme

DAMPING = 0.3  # of each column's own second moment
SHRINKING, SWEEPS = 0.5, 3  # the same for codes that are looked at again, and how often
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
    by_column = column_weights(moments, weight.shape[1], scheme)
    sides = matrix_sides(weight, scheme, by_column)
    order = torch.argsort(moments.diagonal(), descending=True, stable=True)
    group = order // scheme.group
    columns = filled_up(weight, scheme).T[order].float()
    steps = sides.steps.T[group]
    least = torch.zeros_like(columns) if sides.least is None else sides.least.T[group]
    moments, allowed = moments[order][:, order], code_range(scheme)
    found = _round_in_turn(columns.clone(), steps, least, _factor(moments), allowed)
    found = _round_again(found, columns, steps, least, moments, allowed)
    codes = torch.zeros(scheme.width(weight.shape[1]), columns.shape[1])
    codes[order] = found
    return packed(scheme, shape_of(weight), codes.T, sides)


def _round_in_turn(
    left: Tensor, steps: Tensor, least: Tensor, factor: Tensor, codes: tuple[int, int]
) -> Tensor:
    """Codes [C, R] of a matrix's columns, `left` [C, R], which is overwritten; `steps` and `least`
    [C, R] are their scales and minima. Columns are rows here: they lie together in memory."""
    rounded, errors = torch.empty_like(left), torch.empty_like(left[:AT_ONCE])
    inverse = torch.where(steps == 0, 0.0, 1.0 / steps)
    by_diagonal = factor / factor.diagonal().unsqueeze(1)
    for start in range(0, len(left), AT_ONCE):
        part = slice(start, min(start + AT_ONCE, len(left)))
        for i in range(part.start, part.stop):
            column, code, error = left[i], rounded[i], errors[i - start]
            torch.sub(column, least[i], out=error)
            torch.mul(error, inverse[i], out=code).round_().clamp_(*codes)
            error.addcmul_(code, steps[i], value=-1.0)
            left[i + 1 : part.stop].addr_(by_diagonal[i, i + 1 : part.stop], error, alpha=-1.0)
        left[part.stop :].addmm_(
            by_diagonal[part, part.stop :].T, errors[: part.stop - start], alpha=-1.0
        )
    return rounded


def _round_again(
    codes: Tensor,
    columns: Tensor,
    steps: Tensor,
    least: Tensor,
    moments: Tensor,
    allowed: tuple[int, int],
) -> Tensor:
    """Codes [C, R] after a few rounds of coordinate descent on e H' e^T, e = w - q, with H' = H +
    SHRINKING diag(H): each column in turn takes the codes that are best given all others."""
    shrunk = moments + SHRINKING * torch.diag(moments.diagonal())
    own = shrunk.diagonal().clone()
    own[own <= 0] = 1.0
    inverse = torch.where(steps == 0, 0.0, 1.0 / steps)
    values = torch.addcmul(least, codes, steps)
    pull = shrunk @ (columns - values)  # half the fall of the error per unit of each value
    for _ in range(SWEEPS):
        for start in range(0, len(codes), AT_ONCE):
            part = slice(start, min(start + AT_ONCE, len(codes)))
            near, moved = pull[part].clone(), torch.empty_like(pull[part])
            for i, j in enumerate(range(part.start, part.stop)):
                wanted = torch.add(values[j], near[i], alpha=1.0 / float(own[j]))
                codes[j] = wanted.sub_(least[j]).mul_(inverse[j]).round_().clamp_(*allowed)
                torch.addcmul(least[j], codes[j], steps[j], out=wanted)
                torch.sub(wanted, values[j], out=moved[i])
                values[j] = wanted
                near[i + 1 :].addr_(shrunk[j, j + 1 : part.stop], moved[i], alpha=-1.0)
            pull.addmm_(shrunk[:, part], moved, alpha=-1.0)
    return codes


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
