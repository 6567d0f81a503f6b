"""The scale and the minimum of every group that round it best.

For a group x with weights w (how much each column counts: the second moments of what it is
multiplied with), the best sides minimise

    sum_i w_i (x_i - s q_i - m)^2,    q_i = round((x_i - m) / s), within the codes' range.

Ranges from the whole group down to a part of it are tried. For the codes q of each, the sides of
least squares are known; from the ranges for which these promise the least error, codes and sides
are found in turn, as ggml's make_qkx quantizers do. The best sides are then rounded to what the
scheme stores, neighbours tried. The library does the same (kernels/src/sides.h).
"""

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import product

import torch
from torch import Tensor

from edgewise.quantization.packed import SIDE_STEPS, Sides
from edgewise.quantization.rounding.grid import (
    code_range,
    decode,
    encode,
    error,
    multiples,
    unit_of,
)
from edgewise.schemes import Scheme

# Shares of a group's range that are tried, by bits: where minima are stored of the half below its
# middle and of the half above, all pairs; else down to the smallest one, SHARES of them.
HALVES = {
    2: (1.0, 0.9, 0.8, 0.7, 0.6, 0.5, 0.35),
    3: (1.0, 0.9, 0.8, 0.7, 0.6, 0.5, 0.35),
    4: (1.0, 0.95, 0.9, 0.85, 0.8, 0.7, 0.6, 0.45),
    5: (1.0, 0.95, 0.9, 0.85, 0.8, 0.7, 0.6, 0.45),
    6: (1.0, 0.97, 0.94, 0.9, 0.86, 0.8, 0.7, 0.55),
    8: (1.0, 0.97, 0.94, 0.9, 0.86, 0.8, 0.7, 0.55),
}
NARROWEST = {2: 0.25, 3: 0.3, 4: 0.4, 5: 0.4, 6: 0.4, 8: 0.8}
SHARES = 20
KEPT = 4  # ranges that promise the least error, looked at more closely
REFITS = 3  # codes and least squares in turn, from these


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


def best_sides(groups: Tensor, weight: Tensor, scheme: Scheme) -> Sides:
    """Sides of the groups [R, G, g] of a matrix; weight [R or 1, G, g], none negative."""
    weight = weight.expand_as(groups)
    tried = [
        _least_squares(groups, weight, *sides, scheme) for sides in _candidates(groups, scheme)
    ]
    costs = torch.stack([one.cost for one in tried])
    scales = torch.stack([one.scale for one in tried])
    least = [one.minimum for one in tried if one.minimum is not None]
    minima = torch.stack(least) if least else None
    best = None
    for number in costs.topk(min(KEPT, len(tried)), dim=0, largest=False).indices:
        scale, minimum = (
            None if sides is None else sides.gather(0, number.unsqueeze(0)).squeeze(0)
            for sides in (scales, minima)
        )
        assert scale is not None
        best = _refitted(groups, weight, scale, minimum, scheme, best)
    assert best is not None  # there are always candidates
    return _storable(groups, weight, best, scheme)


def ranges(scheme: Scheme) -> Tensor:
    """What is tried [n, 2]: shares of the halves below and above the middle; where symmetric, in
    the first column, what the largest number is multiplied with to lie at either end of the codes,
    which reach one step further down."""
    if scheme.asymmetric:
        return torch.tensor(list(product(HALVES[scheme.bits], repeat=2)))
    shares = torch.linspace(1.0, NARROWEST[scheme.bits], SHARES).tolist()
    return torch.tensor([(share / end, 0.0) for share in shares for end in code_range(scheme)])


def _candidates(groups: Tensor, scheme: Scheme) -> Iterator[tuple[Tensor, Tensor | None]]:
    """The sides [R, G] of these ranges."""
    if not scheme.asymmetric:
        largest = groups.gather(-1, groups.abs().argmax(-1, keepdim=True)).squeeze(-1)
        yield from ((largest * factor, None) for factor, _ in ranges(scheme))
        return
    low, high = groups.amin(-1), groups.amax(-1)
    middle, half = (low + high) / 2, (high - low) / 2
    for below, above in ranges(scheme):
        yield half * (below + above) / code_range(scheme)[1], middle - half * below


def _refitted(
    groups: Tensor,
    weight: Tensor,
    scale: Tensor,
    minimum: Tensor | None,
    scheme: Scheme,
    best: _Best | None,
) -> _Best:
    """The better of `best` and what codes and sides of least squares in turn lead to."""
    for refit in range(REFITS + 1):
        cost = error(groups, scale, minimum, weight, scheme)
        best = best or _Best(cost, scale, minimum)
        best.take(cost, scale, minimum)
        if refit < REFITS:
            sides = _least_squares(groups, weight, scale, minimum, scheme)
            scale, minimum = sides.scale, sides.minimum
    assert best is not None
    return best


def _least_squares(
    groups: Tensor, weight: Tensor, scale: Tensor, minimum: Tensor | None, scheme: Scheme
) -> _Best:
    """The sides of least weighted error for the codes q that these give, and that error. With what
    is left, d = x - s q - m, the normal equations [sum wq^2, sum wq; sum wq, sum w] (ds, dm) =
    (sum wqd, sum wd) say how the sides change."""
    codes = encode(groups, scale, minimum, scheme)
    left = groups - decode(codes, scale, minimum)
    by_codes, weighed = weight * codes, weight * left
    squares, products = (by_codes * codes).sum(-1), (by_codes * left).sum(-1)
    cost = (weighed * left).sum(-1)
    if minimum is None:
        change = torch.where(squares > 0, products / squares, 0.0)
        return _Best(cost - change * products, torch.where(squares > 0, scale + change, 0.0), None)
    total, first, means = weight.sum(-1), by_codes.sum(-1), weighed.sum(-1)
    determinant = squares * total - first * first
    solvable = determinant > 1e-9 * squares * total
    change = torch.where(solvable, (products * total - first * means) / determinant, 0.0)
    shift = torch.where(solvable, (squares * means - first * products) / determinant, 0.0)
    # All codes alike: the mean.
    flat = torch.where(total > 0, (means + scale * first) / total, 0.0)
    return _Best(
        cost - change * products - shift * means,
        torch.where(solvable, scale + change, 0.0),
        minimum + torch.where(solvable, shift, flat),
    )


def _storable(groups: Tensor, weight: Tensor, best: _Best, scheme: Scheme) -> Sides:
    """Sides that the scheme can hold: the nearest to the best scale and its neighbours, for each
    the nearest to the minimum that then is best and its neighbours."""
    unit = unit_of(best.scale) if scheme.double else None
    least_unit = None if unit is None or best.minimum is None else unit_of(best.minimum)
    scale, minimum = _covering(groups, scheme, unit, least_unit)
    kept = _Best(error(groups, scale, minimum, weight, scheme), scale, minimum)
    for scale in _neighbours(best.scale, unit):
        if best.minimum is None:
            kept.take(error(groups, scale, None, weight, scheme), scale, None)
            continue
        wanted = _minimum(groups, weight, scale, best.minimum, scheme)
        for minimum in _neighbours(wanted, least_unit):
            kept.take(error(groups, scale, minimum, weight, scheme), scale, minimum)
    if unit is None:
        return Sides(kept.scale, kept.minimum)
    least = None
    if kept.minimum is not None and least_unit is not None:
        least = multiples(kept.minimum, least_unit)
    return Sides(multiples(kept.scale, unit), least, unit, least_unit)


def _covering(
    groups: Tensor, scheme: Scheme, unit: Tensor | None, least_unit: Tensor | None
) -> tuple[Tensor, Tensor | None]:
    """Storable sides whose codes reach over the whole group, as far as their units let them."""
    if not scheme.asymmetric:
        return _neighbours(groups.abs().amax(-1) / code_range(scheme)[1], unit)[1], None
    low = groups.amin(-1)
    near, up, down = _neighbours(low, least_unit)
    least = torch.where(near <= low, near, torch.minimum(up, down))
    return _neighbours((groups.amax(-1) - least) / code_range(scheme)[1], unit)[1], least


def _minimum(
    groups: Tensor, weight: Tensor, scale: Tensor, minimum: Tensor, scheme: Scheme
) -> Tensor:
    """The minimum of least error for the codes that a scale gives."""
    codes, total = encode(groups, scale, minimum, scheme), weight.sum(-1)
    left = (weight * (groups - codes * scale.unsqueeze(-1))).sum(-1)
    return torch.where(total > 0, left / total, minimum)


def _neighbours(side: Tensor, unit: Tensor | None) -> list[Tensor]:
    """The storable numbers nearest to sides, and those beside them: of bf16, or multiples of a
    unit. No scale that was none becomes 0."""
    if unit is None:
        near = side.to(torch.bfloat16)
        beside = ((near.view(torch.int16) + by).view(torch.bfloat16) for by in (1, -1))
        return [x.float() for x in (near, *beside)]
    steps = multiples(side, unit)
    steps = torch.where((steps == 0) & (side != 0), side.sign(), steps)
    return [(steps + by).clamp(-SIDE_STEPS, SIDE_STEPS) * unit for by in (0, 1, -1)]
