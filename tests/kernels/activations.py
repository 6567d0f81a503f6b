"""How the kernels round activations (docs/kernels.md), written once more in torch."""

import torch
import torch.nn.functional as F
from torch import Tensor

SHARE = 7e-6  # of a token's squares that rounding a group may cost
REST = 254  # steps of the rest in a step


def rounded(inputs: Tensor, group: int, sparse: bool = False) -> tuple[Tensor, Tensor]:
    """inputs [tokens, columns] as the kernels see it, and how far that may be from each number."""
    columns, tile = inputs.shape[-1], 64 if sparse else 32
    step, each = max(group, tile), tile // group
    groups = F.pad(inputs, (0, -columns % step)).unflatten(-1, (-1, group))
    step = groups.abs().amax(-1, keepdim=True) / 127
    codes = groups / step.clamp(min=1e-30)
    first = codes.round()
    rest = ((codes - first) * REST).round() / REST
    cost = group * step.square() / 12
    precise = cost > SHARE * groups.square().sum((-1, -2), keepdim=True)
    if each > 1:  # all groups of a tile
        precise = precise.unflatten(-2, (-1, each)).any(-2, keepdim=True).expand(
            *precise.shape[:-2], -1, each, 1
        ).flatten(-3, -2)  # fmt: skip
    seen = (first + torch.where(precise, rest, 0)) * step
    most = (step / torch.where(precise, 2 * REST, 2)).expand_as(groups)
    return tuple(x.flatten(-2)[..., :columns] for x in (seen, most))
