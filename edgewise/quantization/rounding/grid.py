"""The numbers that a group can hold: codes, scales and minima, and what rounding to them costs.

A group x [..., g] becomes codes q with x ~ s q (symmetric, q counted from -2**(bits - 1)) or
x ~ s q + m (asymmetric, q counted from 0); s, m [...] are its sides.
"""

import torch
from torch import Tensor

from edgewise.quantization.packed import SIDE_STEPS
from edgewise.schemes import Scheme


def encode(groups: Tensor, scale: Tensor, minimum: Tensor | None, scheme: Scheme) -> Tensor:
    """The nearest codes, whole numbers in the groups' type [..., g]. A scale of 0 gives 0."""
    by = inverse(scale).unsqueeze(-1)
    lowest, highest = code_range(scheme)
    offset = 0.0 if minimum is None else minimum.unsqueeze(-1)
    return ((groups - offset) * by).round().clamp(lowest, highest)


def decode(codes: Tensor, scale: Tensor, minimum: Tensor | None) -> Tensor:
    """The numbers that codes [..., g] stand for."""
    numbers = codes * scale.unsqueeze(-1)
    return numbers if minimum is None else numbers + minimum.unsqueeze(-1)


def error(
    groups: Tensor, scale: Tensor, minimum: Tensor | None, weight: Tensor, scheme: Scheme
) -> Tensor:
    """What rounding groups [..., g] costs: the squares, weighed by `weight` [..., g], summed."""
    rounded = decode(encode(groups, scale, minimum, scheme), scale, minimum)
    return ((rounded - groups).square() * weight).sum(-1)


def code_range(scheme: Scheme) -> tuple[int, int]:
    """The lowest and the highest code."""
    if scheme.asymmetric:
        return 0, (1 << scheme.bits) - 1
    return -(1 << (scheme.bits - 1)), (1 << (scheme.bits - 1)) - 1


def unit_of(side: Tensor) -> Tensor:
    """The unit [R, 1] of which the sides [R, G] of a row are multiples: its largest is 127."""
    unit = side.abs().amax(-1, keepdim=True) / SIDE_STEPS
    return unit.to(torch.bfloat16).float()


def inverse(divisor: Tensor) -> Tensor:
    """1 / divisor, and 0 where that is none."""
    return torch.where(divisor == 0, 0.0, 1.0 / divisor)


def multiples(side: Tensor, unit: Tensor) -> Tensor:
    """The nearest multiples in [-127, 127] of a unit."""
    steps = torch.where(unit == 0, 0.0, side / unit)
    return steps.round().clamp(-SIDE_STEPS, SIDE_STEPS)
