"""DILEMMA's truncation (arXiv 2503.01704): digits below the last bit are cut off, not rounded.

w = code * R / 2**(bits - 1), codes towards zero. The paper keeps numbers in [-1, 1], R = 1 (its
study does: studies/dilemma_weights.py); here R is a matrix's largest magnitude, so that few bits
are not wasted on numbers that do not occur.
"""

import torch
from torch import Tensor

from edgewise.quantization.pack import pack
from edgewise.quantization.packed import Packed, filled_up, offset, shape_of
from edgewise.schemes import Scheme


def truncation(weight: Tensor, scheme: Scheme, moments: Tensor | None = None) -> Packed:
    """weight [rows, columns]; `moments` do not matter."""
    zero = offset(scheme)
    step = (weight.abs().amax().float() / zero).float()
    divisor = torch.where(step == 0, 1.0, step)
    codes = torch.trunc(filled_up(weight.float(), scheme) / divisor).clamp_(1 - zero, zero - 1)
    stored = pack(codes.to(torch.int32) + zero, scheme.bits)
    return Packed(scheme, shape_of(weight), stored, step.reshape(1))
