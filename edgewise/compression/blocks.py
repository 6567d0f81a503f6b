"""One block in few bits with zeros in it: SparseGPT and GPTQ, matrix by matrix."""

from collections.abc import Mapping

import torch
from torch import Tensor

from edgewise.models.checkpoint import split_parameter
from edgewise.models.config import DecoderConfig
from edgewise.models.decoder import Block, build_layer
from edgewise.models.loading import matrix_modules
from edgewise.quantization.packed import Packed
from edgewise.quantization.rounding.gptq import gptq
from edgewise.quantization.rounding.sparsegpt import Pruned, Sparsity, inverse_factor, prune
from edgewise.schemes import Scheme


def compress_block(
    config: DecoderConfig,
    block: Block,
    moments: Mapping[str, Tensor],
    scheme: Scheme,
    sparsity: Sparsity,
) -> dict[str, Packed]:
    """A block's matrices by name, given the second moments [columns, columns] of their inputs.
    Raises QuantizationError."""
    pruned = prune_block(config, block, moments, sparsity) if sparsity.share else {}
    return {
        name: gptq(module.weight, scheme, moments[name], pruned.get(name))
        for name, module in matrix_modules(block)
    }


def prune_block(
    config: DecoderConfig, block: Block, moments: Mapping[str, Tensor], sparsity: Sparsity
) -> dict[str, Pruned]:
    """The same without rounding. What a file keeps apart (query, key and value) is pruned apart."""
    pruned = {}
    for name, module in matrix_modules(block):
        factor = inverse_factor(moments[name])
        parts = [
            prune(part, moments[name], sparsity, factor)
            for part in split_parameter(config, f"{name}.weight", module.weight)
        ]
        pruned[name] = Pruned(*(torch.cat(x) for x in zip(*map(_both, parts), strict=True)))
    return pruned


def _both(part: Pruned) -> tuple[Tensor, Tensor]:
    return part.weight, part.keep


def filled_block(
    config: DecoderConfig,
    number: int,
    block: Block,
    matrices: Mapping[str, Packed] | Mapping[str, Pruned],
) -> Block:
    """A block like another, layer `number`, with these matrices in floating point."""
    with torch.device("meta"):
        filled = build_layer(config, number)
    state = dict(block.state_dict())
    for name, matrix in matrices.items():
        numbers = matrix.dequantized() if isinstance(matrix, Packed) else matrix.weight
        state[f"{name}.weight"] = numbers
    filled.load_state_dict(state, assign=True)
    assert isinstance(filled, Block)
    return filled.requires_grad_(False)
