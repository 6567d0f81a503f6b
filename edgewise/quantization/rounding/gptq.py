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

Weights that are to be zero (sparsegpt.py) take the code of zero in their turn, and what that breaks
is made good like any rounding.
"""

import torch
from torch import Tensor

from edgewise.errors import QuantizationError
from edgewise.quantization.packed import Packed, filled_up, joined, made_sparse, packed, shape_of
from edgewise.quantization.rounding.descent import descend
from edgewise.quantization.rounding.grid import code_range, inverse
from edgewise.quantization.rounding.nearest import column_weights, matrix_sides
from edgewise.quantization.rounding.sparsegpt import SEMI_STRUCTURED, Pruned, inverse_factor, prune
from edgewise.schemes import TILE_ROWS, Scheme

AT_ONCE = 2**23  # weights
COLUMNS_AT_ONCE = 64  # after which the rest of the matrix is brought up to date


def gptq(
    weight: Tensor, scheme: Scheme, moments: Tensor | None = None, pruned: Pruned | None = None
) -> Packed:
    """weight [rows, columns], moments float32 [columns, columns], E[x x^T] of its inputs; what is
    not kept of `pruned` becomes exactly 0: in a sparse scheme two of every four neighbours, by
    SparseGPT where nothing is given. Raises QuantizationError."""
    if moments is None or moments.ndim != 2:
        raise QuantizationError(
            "gptq looks at what a model computes: run `edgewise quantize --rounding gptq` first"
        )
    if not torch.isfinite(moments).all():
        raise QuantizationError("gptq: the moments of the inputs are not finite")
    if pruned is not None and scheme.asymmetric:
        raise QuantizationError(f"{scheme.name} has no exact zero: prune into one without an 'a'")
    if scheme.sparse:
        pruned = pruned or prune(weight, moments, SEMI_STRUCTURED)
        return made_sparse(gptq(weight, scheme.dense, moments, pruned), scheme)
    order = torch.argsort(moments.diagonal(), descending=True, stable=True)
    factor = inverse_factor(moments[order][:, order])
    step = max(AT_ONCE // weight.shape[1] // TILE_ROWS, 1) * TILE_ROWS
    parts = (slice(i, i + step) for i in range(0, len(weight), step))
    return joined(
        [
            _gptq(weight[part], scheme, moments, order, factor, pruned and pruned.rows(part))
            for part in parts
        ]
    )


def _gptq(
    weight: Tensor,
    scheme: Scheme,
    moments: Tensor,
    order: Tensor,
    factor: Tensor,
    pruned: Pruned | None,
) -> Packed:
    """The same for some rows, given the order of the columns and their factor in that order."""
    width, group = weight.shape[1], order // scheme.group
    # Zeros cost nothing by any scale: sides are those of what is left.
    shaping = weight if pruned is None else pruned.weight
    sides = matrix_sides(shaping, scheme, column_weights(moments, width, scheme))
    columns = filled_up(weight, scheme).T[:width].float().contiguous()
    keep = None if pruned is None else filled_up(pruned.keep, scheme).T[:width].contiguous()
    steps = sides.steps.T[group]
    least = torch.zeros_like(columns) if sides.least is None else sides.least.T[group]
    codes = torch.zeros(scheme.width(width), columns.shape[1])
    turns = None if keep is None else keep[order]
    codes[order] = _round_in_turn(columns[order], steps, least, factor, code_range(scheme), turns)
    codes[:width], sides = descend(columns, codes[:width], sides, moments, scheme, keep)
    return packed(scheme, shape_of(weight), codes.T, sides)


def _round_in_turn(
    left: Tensor,
    steps: Tensor,
    least: Tensor,
    factor: Tensor,
    codes: tuple[int, int],
    keep: Tensor | None,
) -> Tensor:
    """Codes [C, R] of a matrix's columns, `left` [C, R], which is overwritten; `steps` and `least`
    [C, R] are their scales and minima; code 0 where not to `keep` [C, R]. Columns are rows here:
    they lie together in memory."""
    rounded, errors = torch.empty_like(left), torch.empty_like(left[:COLUMNS_AT_ONCE])
    by_step = inverse(steps)
    by_diagonal = factor / factor.diagonal().unsqueeze(1)
    for start in range(0, len(left), COLUMNS_AT_ONCE):
        part = slice(start, min(start + COLUMNS_AT_ONCE, len(left)))
        for i in range(part.start, part.stop):
            column, code, error = left[i], rounded[i], errors[i - start]
            torch.sub(column, least[i], out=error)
            torch.mul(error, by_step[i], out=code).round_().clamp_(*codes)
            if keep is not None:
                code.mul_(keep[i])
            error.addcmul_(code, steps[i], value=-1.0)
            left[i + 1 : part.stop].addr_(by_diagonal[i, i + 1 : part.stop], error, alpha=-1.0)
        left[part.stop :].addmm_(
            by_diagonal[part, part.stop :].T, errors[: part.stop - start], alpha=-1.0
        )
    return rounded
