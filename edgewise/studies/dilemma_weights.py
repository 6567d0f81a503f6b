"""DILEMMA's truncation of a checkpoint's weights to b bits, and what it costs."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from edgewise.models.checkpoint import Checkpoint, open_checkpoint
from edgewise.models.names import tensor_names
from edgewise.models.shard import Shard
from edgewise.specs import LayerKind

MATRICES = ("qkv.weight", "out.weight", "up.weight", "down.weight")


@dataclass(frozen=True, slots=True)
class Truncation:
    """`squared[b, l]` is the sum of (w - Q_b(w))^2 over block l's matrices, `weights[l]` their
    number; `outside` counts those beyond [-1, 1], `largest` is the largest magnitude."""

    model: str
    hidden_size: int
    bits: tuple[int, ...]
    weights: NDArray[np.int64]
    squared: NDArray[np.float64]
    outside: int
    largest: float

    @property
    def error(self) -> NDArray[np.float64]:
        """e[b, l]: each layer's share of the model's mean squared weight difference."""
        shares: NDArray[np.float64] = self.squared / self.weights.sum()
        return shares


def truncate(weights: torch.Tensor, bits: int) -> torch.Tensor:
    """Keep the sign and `bits` - 1 fractional bits; drop the rest. Magnitudes beyond 1 keep their
    integer part."""
    steps = 2.0 ** (bits - 1)
    return torch.trunc(weights * steps) / steps


def read_truncation(model: str, bits: tuple[int, ...]) -> Truncation:
    """Truncate every decoder block's matrices. Raises ModelError."""
    checkpoint = open_checkpoint(model)
    config = checkpoint.config
    squared = np.zeros((len(bits), config.num_blocks))
    weights = np.zeros(config.num_blocks, dtype=np.int64)
    outside, largest = 0, 0.0
    for block in range(config.num_blocks):
        for tensor in _matrices(checkpoint, block):
            value = tensor.double()
            weights[block] += value.numel()
            outside += int((value.abs() > 1).sum())
            largest = max(largest, float(value.abs().max()))
            for row, width in enumerate(bits):
                squared[row, block] += float((value - truncate(value, width)).square().sum())
    return Truncation(model, config.hidden_size, bits, weights, squared, outside, largest)


def truncate_blocks(shard: Shard, bits: Sequence[int]) -> None:
    """Truncate the matrices of a whole model's blocks in place, those of block b to `bits[b]`."""
    for block, width in zip(shard.layers[1:-1], bits, strict=True):
        for name in MATRICES:
            weight = block.get_parameter(name)
            weight.copy_(truncate(weight, width))


def _matrices(checkpoint: Checkpoint, block: int) -> list[torch.Tensor]:
    family = checkpoint.config.names
    return [
        checkpoint.read(name)
        for parameter in MATRICES
        for name in tensor_names(family, LayerKind.BLOCK, parameter, block)
    ]
