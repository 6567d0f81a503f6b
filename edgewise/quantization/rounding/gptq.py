"""GPTQ (Frantar et al. 2022, arXiv 2210.17323): columns are rounded one after the other, and what
rounding a column breaks, the columns after it make good, as seen through the layer's inputs.

With H = X^T X of the inputs X and U the upper Cholesky factor of H^-1, a column's error e / U_ii is
taken from every later column j in proportion to U_ij (its algorithm 1). Ranges are those of
`nearest`, found when a group's first column is reached, on weights corrected so far.
"""

import torch
from torch import Tensor

from edgewise.errors import QuantizationError
from edgewise.quantization.packed import Packed, filled_up, packed, shape_of
from edgewise.quantization.rounding.nearest import codes, counted, ranges
from edgewise.schemes import Scheme

DAMPING = 0.01  # of the mean diagonal of H, so that it can be inverted


def gptq(weight: Tensor, scheme: Scheme, inputs: Tensor | None = None) -> Packed:
    """weight [rows, columns], inputs float32 [n, columns]. Raises QuantizationError."""
    if inputs is None:
        raise QuantizationError(
            "gptq looks at what a model computes: run `edgewise quantize --rounding gptq` first"
        )
    whole = filled_up(weight.float(), scheme)
    factor = _factor(inputs, whole.shape[1])
    size, found, scales, minima = scheme.group, [], [], []
    weights = counted(weight.shape[1], scheme)
    for start in range(0, whole.shape[1], size):
        group = whole[:, start : start + size]
        scale, minimum = ranges(group, scheme, weights[start // size])
        rounded, errors = _round_group(
            group, scale, minimum, factor[start : start + size, start : start + size], scheme
        )
        whole[:, start + size :] -= errors @ factor[start : start + size, start + size :]
        found.append(rounded)
        scales.append(scale)
        minima.append(minimum)
    least = None if minima[0] is None else torch.stack([m for m in minima if m is not None], 1)
    return packed(scheme, shape_of(weight), torch.cat(found, 1), torch.stack(scales, 1), least)


def _round_group(
    group: Tensor, scale: Tensor, minimum: Tensor | None, factor: Tensor, scheme: Scheme
) -> tuple[Tensor, Tensor]:
    """Codes [rows, g], and each column's error divided by its pivot [rows, g]."""
    left = group.clone()
    found = torch.empty_like(group, dtype=torch.int32)
    errors = torch.empty_like(group)
    zero = 1 << (scheme.bits - 1)
    for i in range(group.shape[1]):
        column = left[:, i : i + 1]
        code = codes(column, scale, minimum, scheme)
        value = (
            (code.float() - zero) * scale.unsqueeze(1)
            if minimum is None
            else (code.float() * scale.unsqueeze(1) + minimum.unsqueeze(1))
        )
        error = (column - value) / factor[i, i]
        left[:, i:] -= error @ factor[i : i + 1, i:]
        found[:, i : i + 1], errors[:, i : i + 1] = code, error
    return found, errors


def _factor(inputs: Tensor, columns: int) -> Tensor:
    """U [columns, columns] with U^T U = H^-1; columns that were filled up see no input."""
    if inputs.shape[0] == 0 or not torch.isfinite(inputs).all():
        raise QuantizationError("gptq: the inputs are empty or not finite")
    seen = torch.zeros(columns, columns, dtype=torch.float64)
    given = inputs.double()
    seen[: given.shape[1], : given.shape[1]] = given.T @ given / len(given)
    damping = DAMPING * float(seen.diagonal().mean())
    seen.diagonal().add_(damping if damping > 0 else 1.0)
    inverse = torch.cholesky_inverse(torch.linalg.cholesky(seen))
    factor: Tensor = torch.linalg.cholesky(inverse, upper=True).float()
    return factor
