"""Round to nearest, the range of every group clipped so that the squared error is least.

Symmetric codes reach one step further down than up, so a scale of either sign is tried: the largest
magnitude may sit on -2**(bits - 1), which costs its opposite one step, or on 2**(bits - 1) - 1.
"""

import torch
from torch import Tensor

from edgewise.quantization.packed import Packed, filled_up, joined, packed, shape_of
from edgewise.schemes import TILE_ROWS, Scheme

AT_ONCE = 2**20  # weights
# How far ranges are narrowed: with few bits a smaller step is worth clipping a few values.
CLIPS = {
    2: (1.0, 0.92, 0.84, 0.76, 0.68, 0.6, 0.52),
    3: (1.0, 0.95, 0.9, 0.85, 0.8, 0.75, 0.7),
    4: (1.0, 0.96, 0.92, 0.88, 0.84, 0.8),
    5: (1.0, 0.97, 0.94, 0.91),
    6: (1.0, 0.98, 0.96),
    8: (1.0, 0.99),
}


def nearest(weight: Tensor, scheme: Scheme, inputs: Tensor | None = None) -> Packed:
    """weight [rows, columns]; `inputs` do not matter. A few rows at a time: trying scales
    out takes several times the memory of what it is tried on."""
    rows, columns = weight.shape
    step = max(AT_ONCE // columns // TILE_ROWS, 1) * TILE_ROWS
    return joined([_nearest(weight[i : i + step].float(), scheme) for i in range(0, rows, step)])


def _nearest(weight: Tensor, scheme: Scheme) -> Packed:
    whole = filled_up(weight, scheme)
    grouped = whole.view(len(whole), -1, scheme.group)
    scale, minimum = ranges(grouped, scheme, counted(weight.shape[1], scheme))
    found = codes(grouped, scale, minimum, scheme).flatten(1)
    return packed(scheme, shape_of(weight), found, scale, minimum)


def counted(columns: int, scheme: Scheme) -> Tensor:
    """1 for every column of the groups [G, g] that exists, 0 for those that fill up the last."""
    numbers = torch.arange(scheme.groups(columns) * scheme.group)
    return (numbers < columns).float().view(-1, scheme.group)


def ranges(groups: Tensor, scheme: Scheme, weights: Tensor) -> tuple[Tensor, Tensor | None]:
    """Scales [...], and minima where asymmetric, of groups [..., g]: numbers that bf16 holds.
    `weights` [..., g] say how much each squared error counts."""
    weights = weights.to(groups.device)
    candidates = _asymmetric(groups, scheme) if scheme.asymmetric else _symmetric(groups, scheme)
    best, best_minimum = candidates[0]
    least = _error(groups, best, best_minimum, scheme, weights)
    for start, minimum in candidates:
        scale = _refitted(groups, start, minimum, scheme, weights)
        error = _error(groups, scale, minimum, scheme, weights)
        better = error < least
        least = torch.where(better, error, least)
        best = torch.where(better, scale, best)
        if minimum is not None and best_minimum is not None:
            best_minimum = torch.where(better, minimum, best_minimum)
    return best, best_minimum


def codes(groups: Tensor, scale: Tensor, minimum: Tensor | None, scheme: Scheme) -> Tensor:
    """The nearest codes, int32 counted from 0, of groups [..., g]."""
    step = torch.where(scale == 0, 1.0, scale).unsqueeze(-1)
    if minimum is None:
        zero = 1 << (scheme.bits - 1)
        found = torch.round(groups / step).clamp_(-zero, zero - 1).add_(zero)
    else:
        found = torch.round((groups - minimum.unsqueeze(-1)) / step)
        found = found.clamp_(0, (1 << scheme.bits) - 1)
    return found.to(torch.int32)


def _symmetric(groups: Tensor, scheme: Scheme) -> list[tuple[Tensor, Tensor | None]]:
    largest = groups.gather(-1, groups.abs().argmax(-1, keepdim=True)).squeeze(-1)
    down = largest / -(1 << (scheme.bits - 1))
    up = largest / ((1 << (scheme.bits - 1)) - 1)
    # Rounded up: the end of the range must not fall short of the largest value.
    return [(_bf16_up(x * clip), None) for x in (up, down) for clip in CLIPS[scheme.bits]]


def _asymmetric(groups: Tensor, scheme: Scheme) -> list[tuple[Tensor, Tensor | None]]:
    low, high = groups.amin(-1), groups.amax(-1)
    found: list[tuple[Tensor, Tensor | None]] = []
    for from_below in CLIPS[scheme.bits][::2]:
        for from_above in CLIPS[scheme.bits][::2]:
            middle = (low + high) / 2
            least = -_bf16_up(-(middle + (low - middle) * from_below), signed=True)
            most = middle + (high - middle) * from_above
            found.append((_bf16_up((most - least) / ((1 << scheme.bits) - 1)), least))
    return found


def _bf16_up(x: Tensor, signed: bool = False) -> Tensor:
    """The bf16 number next to x away from zero, or upwards if `signed`; x where it is one."""
    near = x.to(torch.bfloat16)
    short = near.float() < x if signed else near.float().abs() < x.abs()
    # Neighbours of a float are its bits plus or minus one, counted from zero outwards.
    outwards = torch.where((near < 0) & signed, -1, 1)
    further = (near.view(torch.int16) + outwards).to(torch.int16).view(torch.bfloat16)
    return torch.where(short, further, near).float()


def _refitted(
    groups: Tensor, scale: Tensor, minimum: Tensor | None, scheme: Scheme, weights: Tensor
) -> Tensor:
    """The scale of least squared error for the codes that `scale` gives, if that is better."""
    found = codes(groups, scale, minimum, scheme).float()
    target = groups
    if minimum is None:
        found = found - (1 << (scheme.bits - 1))
    else:
        target = groups - minimum.unsqueeze(-1)
    squares = (found * found * weights).sum(-1)
    fitted = (found * target * weights).sum(-1) / torch.where(squares == 0, 1.0, squares)
    fitted = torch.where(squares == 0, scale, fitted).to(torch.bfloat16).float()
    errors = [_error(groups, x, minimum, scheme, weights) for x in (fitted, scale)]
    return torch.where(errors[0] < errors[1], fitted, scale)


def _error(
    groups: Tensor, scale: Tensor, minimum: Tensor | None, scheme: Scheme, weights: Tensor
) -> Tensor:
    found = codes(groups, scale, minimum, scheme).float()
    if minimum is None:
        values = (found - (1 << (scheme.bits - 1))) * scale.unsqueeze(-1)
    else:
        values = found * scale.unsqueeze(-1) + minimum.unsqueeze(-1)
    return ((values - groups).square() * weights).sum(-1)
