"""The scale and the minimum of every group that round it best.

For a group x with weights w (how much each column counts: the second moments of what it is
multiplied with), the best sides minimise

    sum_i w_i (x_i - s q_i - m)^2,    q_i = round((x_i - m) / s), within the codes' range.

Ranges from the whole group down to a part of it are tried; from each, codes and the sides of least
squares for these codes are found in turn, as ggml's make_qkx quantizers do. The best sides are then
rounded to what the scheme stores, neighbours tried.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from edgewise.quantization.packed import SIDE_STEPS, Sides
from edgewise.quantization.rounding.grid import (
    code_range,
    encode,
    error,
    unit_of,
)
from edgewise.schemes import Scheme

RANGES = 10  # shares of a group's range that are tried
NARROWEST = {2: 0.5, 3: 0.5, 4: 0.7, 5: 0.7, 6: 0.7, 8: 0.9}  # the smallest of them
REFITS = 2  # codes and least squares in turn, from every range


@dataclass
class _Best:
    """The sides of least error so far."""

    cost: Tensor
    scale: Tensor
    minimum: Tensor | None

    def take(self, cost: Tensor, scale: Tensor, minimum: Tensor | None) -> None:
        """Keep the sides of groups that cost less with these."""
        better = cost < self.cost
        self.cost = torch.where(better, cost, self.cost)
        self.scale = torch.where(better, scale, self.scale)
        if minimum is not None and self.minimum is not None:
            self.minimum = torch.where(better, minimum, self.minimum)


def best_sides(x: Tensor, weight: Tensor, scheme: Scheme) -> Sides:
    """Sides of the groups x [R, G, g] of a matrix; weight [R or 1, G, g], none negative."""
    weight = weight.expand_as(x)
    candidates = _asymmetric(x, scheme) if scheme.asymmetric else _symmetric(x, scheme)
    best = None
    for scale, minimum in candidates:
        tried = _refitted(x, weight, scale, minimum, scheme)
        if best is None:
            best = tried
        best.take(tried.cost, tried.scale, tried.minimum)
    assert best is not None  # there are always candidates
    return _storable(x, weight, best, scheme)


def _shares(scheme: Scheme) -> list[float]:
    step = (1.0 - NARROWEST[scheme.bits]) / (RANGES - 1)
    return [1.0 - i * step for i in range(RANGES)]


def _symmetric(x: Tensor, scheme: Scheme) -> list[tuple[Tensor, Tensor | None]]:
    """The largest magnitude at either end of the codes, which reach one step further down."""
    largest = x.gather(-1, x.abs().argmax(-1, keepdim=True)).squeeze(-1)
    ends = code_range(scheme)
    return [(largest * share / end, None) for share in _shares(scheme) for end in ends]


def _asymmetric(x: Tensor, scheme: Scheme) -> list[tuple[Tensor, Tensor | None]]:
    """Ranges narrowed from both sides, and somewhat from one."""
    low, high = x.amin(-1), x.amax(-1)
    both = [(share, share) for share in _shares(scheme)]
    one = [(share, 1.0) for share in (0.9, 0.8)] + [(1.0, share) for share in (0.9, 0.8)]
    middle, half = (low + high) / 2, (high - low) / 2
    top = code_range(scheme)[1]
    return [(half * (below + above) / top, middle - half * below) for below, above in (*both, *one)]


def _refitted(
    x: Tensor, weight: Tensor, scale: Tensor, minimum: Tensor | None, scheme: Scheme
) -> _Best:
    best = _Best(error(x, scale, minimum, weight, scheme), scale, minimum)
    for _ in range(REFITS):
        codes = encode(x, best.scale, best.minimum, scheme)
        scale, minimum = _least_squares(x, codes, weight, scheme)
        best.take(error(x, scale, minimum, weight, scheme), scale, minimum)
    return best


def _least_squares(
    x: Tensor, codes: Tensor, weight: Tensor, scheme: Scheme
) -> tuple[Tensor, Tensor | None]:
    """The sides of least weighted error for codes [R, G, g]: the normal equations
    [sum wq^2, sum wq; sum wq, sum w] (s, m) = (sum wqx, sum wx)."""
    by_codes = weight * codes
    squares, products = (by_codes * codes).sum(-1), (by_codes * x).sum(-1)
    if not scheme.asymmetric:
        return torch.where(squares > 0, products / squares, 0.0), None
    total, first, means = weight.sum(-1), by_codes.sum(-1), (weight * x).sum(-1)
    determinant = squares * total - first * first
    solvable = determinant > 1e-9 * squares * total
    scale = torch.where(solvable, (products * total - first * means) / determinant, 0.0)
    minimum = torch.where(solvable, (squares * means - first * products) / determinant, 0.0)
    flat = torch.where(total > 0, means / total, 0.0)  # all codes alike: the mean
    return scale, torch.where(solvable, minimum, flat)


def _storable(x: Tensor, weight: Tensor, best: _Best, scheme: Scheme) -> Sides:
    """Sides that the scheme can hold: the nearest to the best scale and its neighbours, for each
    the nearest to the minimum that then is best and its neighbours."""
    unit = unit_of(best.scale) if scheme.double else None
    least_unit = None if unit is None or best.minimum is None else unit_of(best.minimum)
    scale, minimum = _covering(x, scheme, unit, least_unit)
    kept = _Best(error(x, scale, minimum, weight, scheme), scale, minimum)
    for scale in _neighbours(best.scale, unit):
        if best.minimum is None:
            kept.take(error(x, scale, None, weight, scheme), scale, None)
            continue
        for minimum in _neighbours(_minimum(x, weight, scale, best.minimum, scheme), least_unit):
            kept.take(error(x, scale, minimum, weight, scheme), scale, minimum)
    if unit is None:
        return Sides(kept.scale, kept.minimum)
    least = None
    if kept.minimum is not None and least_unit is not None:
        least = _multiples(kept.minimum, least_unit)
    return Sides(_multiples(kept.scale, unit), least, unit, least_unit)


def _covering(
    x: Tensor, scheme: Scheme, unit: Tensor | None, least_unit: Tensor | None
) -> tuple[Tensor, Tensor | None]:
    """Storable sides whose codes reach over the whole group, as far as their units let them."""
    if not scheme.asymmetric:
        return _neighbours(x.abs().amax(-1) / code_range(scheme)[1], unit)[1], None
    low = x.amin(-1)
    near, up, down = _neighbours(low, least_unit)
    least = torch.where(near <= low, near, torch.minimum(up, down))
    return _neighbours((x.amax(-1) - least) / code_range(scheme)[1], unit)[1], least


def _minimum(x: Tensor, weight: Tensor, scale: Tensor, minimum: Tensor, scheme: Scheme) -> Tensor:
    """The minimum of least error for the codes that a scale gives."""
    codes, total = encode(x, scale, minimum, scheme), weight.sum(-1)
    left = (weight * (x - codes * scale.unsqueeze(-1))).sum(-1)
    return torch.where(total > 0, left / total, minimum)


def _neighbours(side: Tensor, unit: Tensor | None) -> list[Tensor]:
    """The storable numbers nearest to sides, and those beside them: of bf16, or multiples of a
    unit. No scale that was none becomes 0."""
    if unit is None:
        near = side.to(torch.bfloat16)
        beside = ((near.view(torch.int16) + by).view(torch.bfloat16) for by in (1, -1))
        return [x.float() for x in (near, *beside)]
    steps = _multiples(side, unit)
    steps = torch.where((steps == 0) & (side != 0), side.sign(), steps)
    return [(steps + by).clamp(-SIDE_STEPS, SIDE_STEPS) * unit for by in (0, 1, -1)]


def _multiples(side: Tensor, unit: Tensor) -> Tensor:
    """The nearest multiples in [-127, 127]."""
    steps = torch.where(unit == 0, 0.0, side / unit)
    return steps.round().clamp(-SIDE_STEPS, SIDE_STEPS)
