"""Round to nearest, with the sides of every group searched for (search.py).

How much a column's error counts is the second moment of what it is multiplied with: for y = W x,
E |dW x|^2 = sum_ij dw_i dw_j E[x_i x_j], of which this is the diagonal. In a sparse scheme the two
of every four neighbours stay that cost most to lose by the same measure.
"""

from itertools import combinations

import torch
from torch import Tensor

from edgewise.kernels.rounding import can_round, round_matrix
from edgewise.quantization.packed import (
    Packed,
    Sides,
    filled_up,
    joined,
    made_sparse,
    packed,
    shape_of,
    sides_of,
)
from edgewise.quantization.rounding.grid import encode
from edgewise.quantization.rounding.search import best_sides, ranges
from edgewise.quantization.sparse import AMONG, KEPT
from edgewise.schemes import TILE_ROWS, Scheme

AT_ONCE = 2**18  # weights: what is tried on them stays in the cache
LEAST_WEIGHT = 0.01  # of the median: a column that calibration saw nothing of may matter elsewhere


def nearest(weight: Tensor, scheme: Scheme, moments: Tensor | None = None) -> Packed:
    """weight [rows, columns] of any float type; `moments` [columns], or [columns, columns] of which
    the diagonal counts, of the matrix's inputs; None: all columns alike."""
    rows, columns = weight.shape
    by_column = column_weights(moments, columns, scheme)
    if scheme.sparse:
        left = two_of_four(weight, by_column)
        return made_sparse(nearest(left, scheme.dense, moments), scheme)
    if can_round(weight):
        return _in_library(weight, scheme, by_column)
    step = max(AT_ONCE // columns // TILE_ROWS, 1) * TILE_ROWS
    parts = (weight[i : i + step].float() for i in range(0, rows, step))
    return joined([_nearest(part, scheme, by_column) for part in parts])


def matrix_sides(weight: Tensor, scheme: Scheme, by_column: Tensor) -> Sides:
    """The sides that round a matrix [rows, columns] best, `by_column` from `column_weights`."""
    if can_round(weight):
        return sides_of(_in_library(weight, scheme, by_column))
    return _search(weight.float(), scheme, by_column)[1]


def two_of_four(weight: Tensor, by_column: Tensor) -> Tensor:
    """weight [rows, columns] with all but two of every four neighbours in a row zero; `by_column`
    from `column_weights`."""
    rows, columns = weight.shape
    beyond, kept = -columns % AMONG, torch.empty_like(weight)
    for start in range(0, rows, step := max(AT_ONCE // columns, 1)):
        part = weight[start : start + step]
        costs = part.float().square() * by_column.flatten()[:columns]
        filled = torch.nn.functional.pad(costs, (0, beyond), value=-1.0)
        four = filled.view(-1, AMONG).T.contiguous()
        wins = torch.zeros_like(four, dtype=torch.uint8)
        for i, j in combinations(range(AMONG), 2):  # thirty times as fast as topk
            first = four[i] >= four[j]
            wins[i] += first
            wins[j] += ~first
        keep = (wins >= AMONG - KEPT).T.reshape(filled.shape)[:, :columns]
        kept[start : start + step] = part.where(keep, 0)
    return kept


def _in_library(weight: Tensor, scheme: Scheme, by_column: Tensor) -> Packed:
    tensors = round_matrix(
        weight,
        by_column.flatten(),
        ranges(scheme),
        bits=scheme.bits,
        group=scheme.group,
        asymmetric=scheme.asymmetric,
        double=scheme.double,
    )
    return Packed(scheme, shape_of(weight), **tensors)


def _nearest(weight: Tensor, scheme: Scheme, by_column: Tensor) -> Packed:
    groups, sides = _search(weight, scheme, by_column)
    codes = encode(groups, sides.steps, sides.least, scheme)
    return packed(scheme, shape_of(weight), codes.flatten(1), sides)


def _search(weight: Tensor, scheme: Scheme, by_column: Tensor) -> tuple[Tensor, Sides]:
    """The groups [R, G, g] of a matrix, filled up, and their sides."""
    whole = filled_up(weight, scheme)
    groups = whole.view(len(whole), -1, scheme.group)
    return groups, best_sides(groups, by_column.unsqueeze(0), scheme)


def column_weights(moments: Tensor | None, columns: int, scheme: Scheme) -> Tensor:
    """How much errors in every column count [G, g]; 0 for those that fill up the last group."""
    weights = torch.zeros(scheme.width(columns))
    weights[:columns] = 1.0
    if moments is not None:
        diagonal = (moments.diagonal() if moments.ndim == 2 else moments).float().cpu()
        floor = LEAST_WEIGHT * diagonal.median()
        weights[:columns] = diagonal.clamp(min=float(floor)) if floor > 0 else diagonal + 1e-12
        weights /= weights.mean()
    return weights.view(-1, scheme.group)
