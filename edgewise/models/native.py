"""Which blocks the C++ kernels can run whole, and how they are handed over."""

import torch.nn.functional as F
from torch import Tensor, nn

from edgewise import kernels
from edgewise.kernels import Packing
from edgewise.kernels.block import (
    MATRICES,
    NORMS,
    VECTOR,
    Activation,
    BlockShape,
    NativeBlock,
    NormWeights,
)
from edgewise.models.config import DecoderConfig
from edgewise.models.decoder import Block, Norm
from edgewise.quantization.linear import PackedLinear

ACTIVATIONS = {F.silu: Activation.SILU, F.relu: Activation.RELU, F.gelu: Activation.GELU}


def native_block(
    config: DecoderConfig, block: Block, window: int | None, cache: Tensor
) -> NativeBlock | None:
    """The block with its cache [2, slots, K, context, D]; None where torch has to run it: without
    the kernels, on other devices, with matrices that are not packed in groups, or shapes that the
    kernels do not know."""
    matrices = _packings(block)
    known = block.norm_first and config.head_dim % VECTOR == 0
    if not kernels.available() or matrices is None or not known:
        return None
    shape = BlockShape(
        *(config.hidden_size, config.num_heads, config.num_kv_heads, config.head_dim),
        *(config.ffn_size, block.gated, ACTIVATIONS[block.activation], window or 0),
    )
    norms = {name: _norm(x) for name in NORMS if (x := getattr(block, name)) is not None}
    return NativeBlock(shape, matrices, norms, cache[0], cache[1])


def _packings(block: Block) -> dict[str, Packing] | None:
    found = {}
    for name in MATRICES:
        matrix = getattr(block, name)
        packing = matrix.packing() if isinstance(matrix, PackedLinear) else None
        if packing is None:
            return None
        found[name] = packing
    return found


def _norm(norm: Norm) -> NormWeights:
    if isinstance(norm, nn.LayerNorm):
        return NormWeights(norm.weight, norm.bias, norm.eps, centred=True)
    return NormWeights(norm.weight, None, norm.eps or 0.0, centred=False)
