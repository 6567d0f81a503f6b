"""Coordinate descent on what rounding a matrix costs, seen through its inputs: e H e^T summed over
its rows, e = w - q. Codes and sides take turns.

A column that was rounded early knew nothing of those after it; here each takes the codes that are
best given all others (as in QuantEase: Behdin et al. 2023, arXiv 2309.01885). Then every group
takes the scale and the minimum that are best given its codes and all other groups: least squares,
with z its codes, 1 as many ones, H its own part and r = H e of its columns,

    [zHz zH1] [change of scale  ]   [zr]
    [zH1 1H1] [change of minimum] = [1r].

Neither step ever raises the cost: sides that get worse as they are rounded to what the scheme can
hold stay as they were. H's off-diagonal entries are shrunk, H + SHRINKING diag(H), for the reason
that gptq.py gives.
"""

import torch
from torch import Tensor

from edgewise.quantization.packed import Sides
from edgewise.quantization.rounding.grid import code_range, inverse, multiples
from edgewise.schemes import Scheme

SHRINKING = 0.5  # of each column's own second moment
ROUNDS = 3
AT_ONCE = 64  # columns, after which the rest of the matrix is brought up to date


def descend(
    columns: Tensor,
    codes: Tensor,
    sides: Sides,
    moments: Tensor,
    scheme: Scheme,
    keep: Tensor | None = None,
) -> tuple[Tensor, Sides]:
    """Better codes [C, R] and sides [R, G] than these for `columns` [C, R], the transpose of a
    matrix, whose columns lie together in memory; moments [C, C]. All float32. Codes not to `keep`
    [C, R] are 0 and stay so."""
    stand = _Stand(columns, codes, sides, moments, scheme, keep)
    for _ in range(ROUNDS):
        stand.improve_codes()
        stand.improve_sides()
    return stand.codes, stand.sides


class _Stand:
    """Where the descent stands: codes and values [C, R], scales and minima [G, R] as numbers (a
    symmetric scheme's minima are 0), and `pull` [C, R] = H e, half of what the cost falls by per
    unit that each value grows."""

    def __init__(
        self,
        columns: Tensor,
        codes: Tensor,
        sides: Sides,
        moments: Tensor,
        scheme: Scheme,
        keep: Tensor | None,
    ) -> None:
        self.scheme, self.allowed, self.keep = scheme, code_range(scheme), keep
        self.moments = moments + SHRINKING * torch.diag(moments.diagonal())
        self.units = (_unit(sides.row_scale), _unit(sides.row_minimum))
        self.codes, self.scale = codes.clone(), sides.steps.T.contiguous()
        least = torch.zeros_like(sides.steps) if sides.least is None else sides.least
        self.minimum = least.T.contiguous()
        group = torch.arange(len(columns), device=columns.device) // scheme.group
        self.values = torch.addcmul(self.minimum[group], codes, self.scale[group])
        self.pull = self.moments @ (columns - self.values)

    @property
    def sides(self) -> Sides:
        scale, minimum = (
            side.T if unit is None else multiples(side, unit).T
            for side, unit in zip((self.scale, self.minimum), self.units, strict=True)
        )
        row_scale, row_minimum = (None if x is None else x.unsqueeze(1) for x in self.units)
        return Sides(scale, minimum if self.scheme.asymmetric else None, row_scale, row_minimum)

    def improve_codes(self) -> None:
        own = self.moments.diagonal().clone()
        own[own <= 0] = 1.0  # nothing pulls at a column that saw no input
        for start in range(0, len(self.codes), AT_ONCE):
            part = slice(start, min(start + AT_ONCE, len(self.codes)))
            pull, moved = self.pull[part].clone(), torch.empty_like(self.pull[part])
            for i, j in enumerate(range(part.start, part.stop)):
                scale, minimum = (x[j // self.scheme.group] for x in (self.scale, self.minimum))
                wanted = torch.add(self.values[j], pull[i], alpha=1.0 / float(own[j]))
                codes = wanted.sub_(minimum).mul_(inverse(scale)).round_().clamp_(*self.allowed)
                if self.keep is not None:
                    codes.mul_(self.keep[j])
                rounded = torch.addcmul(minimum, codes, scale)
                torch.sub(rounded, self.values[j], out=moved[i])
                self.codes[j], self.values[j] = codes, rounded
                pull[i + 1 :].addr_(self.moments[j, j + 1 : part.stop], moved[i], alpha=-1.0)
            self.pull.addmm_(self.moments[:, part], moved, alpha=-1.0)

    def improve_sides(self) -> None:
        for group in range(len(self.scale)):
            part = slice(group * self.scheme.group, (group + 1) * self.scheme.group)
            codes, pull, moments = self.codes[part], self.pull[part], self.moments[part, part]
            scale, minimum = self._fitted(group, codes, pull, moments)
            moved = torch.addcmul(minimum - self.minimum[group], codes, scale - self.scale[group])
            better = 2 * (moved * pull).sum(0) > (moved * (moments @ moved)).sum(0)
            self.scale[group] = torch.where(better, scale, self.scale[group])
            self.minimum[group] = torch.where(better, minimum, self.minimum[group])
            moved *= better
            self.values[part] += moved
            self.pull.addmm_(self.moments[:, part], moved, alpha=-1.0)

    def _fitted(
        self, group: int, codes: Tensor, pull: Tensor, moments: Tensor
    ) -> tuple[Tensor, Tensor]:
        """The scales and minima [R] that are best for codes [g, R], given all other groups."""
        scale_unit, minimum_unit = self.units
        scale, minimum = self.scale[group], self.minimum[group]
        weighed = moments @ codes
        squares, product = (codes * weighed).sum(0), (codes * pull).sum(0)
        if not self.scheme.asymmetric:
            change = torch.where(squares > 0, product / squares, 0.0)
            return _held(scale + change, scale_unit), minimum
        total, mixed, level = moments.sum(), weighed.sum(0), pull.sum(0)
        determinant = squares * total - mixed * mixed
        solvable = determinant > 1e-6 * squares * total
        change = torch.where(solvable, (product * total - level * mixed) / determinant, 0.0)
        fitted = _held(scale + change, scale_unit)
        # The best minimum for the scale that can be held, not for the one that cannot.
        shift = (level - (fitted - scale) * mixed) / total if total > 0 else 0.0
        return fitted, _held(minimum + shift, minimum_unit)


def _unit(unit: Tensor | None) -> Tensor | None:
    """The units [R, 1] of a matrix's rows as [R]."""
    return None if unit is None else unit.squeeze(1)


def _held(side: Tensor, unit: Tensor | None) -> Tensor:
    """The nearest that a scheme can hold to scales or minima [R]."""
    return side.bfloat16().float() if unit is None else multiples(side, unit) * unit
