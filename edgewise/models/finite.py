"""Numbers that are none, found where they arise instead of in an answer."""

import math

import torch
from torch import Tensor

from edgewise.errors import NonFinite

_AT_ONCE = 2**22  # numbers summed at a time: torch may widen them first, in memory


def all_finite(numbers: Tensor) -> bool:
    """Whether no number is infinite or NaN. One pass, and next to no memory: a sum shows both,
    and only where it is not finite, which large numbers may cause, each number is looked at."""
    for part in numbers.detach().reshape(-1).split(_AT_ONCE):
        total = part.sum(dtype=torch.float32)
        if not total.isfinite() and not part.isfinite().all():
            return False
    return True


def check_finite(numbers: Tensor, source: str) -> Tensor:
    """`numbers` themselves. Raises NonFinite, which says that `source` computed them."""
    if not all_finite(numbers):
        raise NonFinite(
            f"{source} computed numbers that are not finite; the weights are damaged, or their "
            "type is too narrow: try another scheme, such as bf16 or fp32"
        )
    return numbers


def nan_where_infinite(products: Tensor, inputs: Tensor) -> Tensor:
    """`products` [rows, ...], made NaN where the inputs [rows, ...] are not finite: packed matrices
    are multiplied with integers, which would hide it."""
    if not all_finite(inputs):
        products[~inputs.isfinite().all(-1)] = math.nan
    return products
