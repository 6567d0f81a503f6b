"""Rotary positions (Su et al. 2021, RoFormer)."""

import math

import torch
from torch import Tensor

from edgewise.models.config import Rope

Rotation = tuple[Tensor, Tensor]


def inverse_frequencies(rope: Rope, head_dim: int) -> Tensor:
    """Rotary frequencies [D/2], with Llama 3.1's scaling where set: wavelengths beyond the original
    context are stretched by `factor`, short ones kept, and those between blended; or divided by
    what the model states."""
    exponent = torch.arange(0, head_dim, 2, dtype=torch.int64).float() / head_dim
    frequency = 1.0 / (rope.theta**exponent) / rope.linear_factor
    if rope.divisors is not None:
        frequency = frequency / torch.tensor(rope.divisors)
    if rope.llama3 is None:
        return frequency
    factor, low, high, original = rope.llama3
    wavelength = 2 * math.pi / frequency
    smooth = ((original / wavelength - low) / (high - low)).clamp(0, 1)
    return (1 - smooth) * frequency / factor + smooth * frequency


def rotation(frequency: Tensor, positions: Tensor) -> Rotation:
    """cos and sin, each [..., 1, D], of the angles at `positions` [...]."""
    angle = positions.unsqueeze(-1).float() * frequency
    angle = torch.cat((angle, angle), dim=-1).unsqueeze(-2)
    return angle.cos(), angle.sin()


def rotate(vectors: Tensor, by: Rotation) -> Tensor:
    """Rotate each pair (i, i + D/2) of vectors [..., heads, D]."""
    half = vectors.shape[-1] // 2
    turned = torch.cat((-vectors[..., half:], vectors[..., :half]), dim=-1)
    return vectors * by[0].to(vectors.dtype) + turned * by[1].to(vectors.dtype)
