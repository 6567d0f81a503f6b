"""DILEMMA's truncation (arXiv 2503.01704): digits below the last bit are cut off, not rounded.

The paper keeps numbers in [-1, 1]; here a matrix's largest magnitude R takes the place of 1, so
that few bits are not wasted on numbers that do not occur: w = code * R / 2**(bits - 1), codes
towards zero.
"""

import torch
from torch import Tensor

from edgewise.quantization.packed import Packed, filled_up, offset, packed, shape_of
from edgewise.schemes import Scheme


def truncate(weight: Tensor, scheme: Scheme, inputs: Tensor | None = None) -> Packed:
    """weight float32 [rows, columns]; `inputs` do not matter."""
    zero = offset(scheme)
    step = (weight.abs().amax() / zero).float()
    divisor = torch.where(step == 0, 1.0, step)
    codes = torch.trunc(filled_up(weight, scheme) / divisor).clamp_(1 - zero, zero - 1)
    return packed(scheme, shape_of(weight), codes.to(torch.int32) + zero, step)
