"""Which blocks the C++ kernels can run whole, and how they are handed over."""

from dataclasses import dataclass

import torch.nn.functional as F
from torch import nn

from edgewise.kernels import NativeMatrix, backend_of
from edgewise.kernels.block import (
    MATRICES,
    NORMS,
    VECTOR,
    Activation,
    BlockShape,
    NativeBlock,
    NormWeights,
)
from edgewise.models.cache import Stored
from edgewise.models.config import DecoderConfig
from edgewise.models.decoder import Block, DecoderBlock, Norm
from edgewise.models.linear import Linear
from edgewise.quantization.linear import PackedLinear

ACTIVATIONS = {F.silu: Activation.SILU, F.relu: Activation.RELU, F.gelu: Activation.GELU}


@dataclass(frozen=True)
class NativePart:
    """Blocks one after the other, from the shard's `first` on, with what the kernels need to run
    up to `most_tokens` through them in one call; beyond that, torch runs them."""

    first: int
    most_tokens: float
    blocks: list[Block]
    native: list[NativeBlock]

    @property
    def numbers(self) -> range:
        """Of the blocks, in the shard."""
        return range(self.first, self.first + len(self.blocks))

    def within(self, first: int, end: int) -> "NativePart":
        """Those of the shard's blocks [first, end) that are among these, maybe none."""
        if first <= self.first and self.numbers.stop <= end:
            return self
        start = min(max(first - self.first, 0), len(self.blocks))
        own = slice(start, max(end - self.first, start))
        return NativePart(self.first + start, self.most_tokens, self.blocks[own], self.native[own])


def native_block(
    config: DecoderConfig, block: DecoderBlock, window: int | None, cache: Stored
) -> NativeBlock | None:
    """The block with its cache; None where torch has to run it: without the kernels, on other
    devices, with truncated matrices, or shapes that the kernels do not know."""
    matrices, backend = _matrices(block), backend_of(cache.codes[0].device)
    known = block.norm_first and config.head_dim % VECTOR == 0
    if backend is None or matrices is None or not known:
        return None
    shape = BlockShape(
        *(config.hidden_size, config.num_heads, config.num_kv_heads, config.head_dim),
        *(config.ffn_size, block.gated, ACTIVATIONS[block.activation], window or 0),
    )
    norms = {name: _norm(norm) for name in NORMS if (norm := getattr(block, name)) is not None}
    scales = (None, None) if cache.scale is None else (cache.scale[0], cache.scale[1])
    return backend.block(shape, matrices, norms, (cache.codes[0], cache.codes[1], *scales))


def _matrices(block: DecoderBlock) -> dict[str, NativeMatrix] | None:
    natives = {}
    for name in MATRICES:
        matrix: Linear | PackedLinear = getattr(block, name)
        native = matrix.native()
        if native is None:
            return None
        natives[name] = native
    return natives


def _norm(norm: Norm) -> NormWeights:
    if isinstance(norm, nn.LayerNorm):
        return NormWeights(norm.weight, norm.bias, norm.eps, centred=True)
    return NormWeights(norm.weight, None, norm.eps or 0.0, centred=False)
