"""Compresses a model: block by block, each given what the compressed ones before it hand it."""

from collections.abc import Callable, Iterator
from pathlib import Path

import torch
from torch import Tensor

from edgewise.compression.blocks import compress_block, filled_block
from edgewise.compression.errors import FULL, OnStep
from edgewise.compression.policies import Compression, compressed_scheme
from edgewise.models.checkpoint import Checkpoint, open_checkpoint, split_parameter
from edgewise.models.decoder import Block
from edgewise.models.loading import Loader
from edgewise.models.names import parameter_names
from edgewise.models.packed_writing import check_packable, stored_layer, write_packed
from edgewise.quality.streaming import run_in_parts, run_observed
from edgewise.quantization.packed import Packed, rows_of
from edgewise.quantization.rounding.sparsegpt import Sparsity
from edgewise.specs import LayerKind

Matrices = dict[str, Tensor | Packed]  # by the checkpoint's names


def write_compressed(
    model: str,
    chosen: Compression,
    ids: Tensor,
    folder: Path,
    *,
    among: int = 0,
    on_step: OnStep = lambda step: None,
) -> int:
    """Write a model whose blocks are compressed as is chosen, on sequences ids [B, T], into a
    folder that loads like any other model; embedding and head stay as they are. `among`: see
    Sparsity. Returns bytes of weights. Raises InputError, ModelError, DiskError."""
    checkpoint = open_checkpoint(model)
    check_packable(checkpoint, folder)
    layers = compressed_layers(checkpoint, chosen, ids, among, on_step)
    return write_packed(checkpoint, layers, folder)


@torch.inference_mode()
def compressed_layers(
    checkpoint: Checkpoint,
    chosen: Compression,
    ids: Tensor,
    among: int = 0,
    on_step: Callable[[str], None] = lambda step: None,
) -> Iterator[Matrices]:
    """The tensors of every layer in turn, one layer in memory at a time."""
    config, loader, states = checkpoint.config, Loader(checkpoint, torch.device("cpu")), ids
    for number in range(config.num_layers):
        instead: Matrices = {}
        if number < config.num_layers - 1:
            layer = loader.layer(number, FULL)
            if isinstance(layer, Block):
                _, moments = run_observed(config, number, layer, states, pairs=True)
                sparsity = Sparsity(chosen.sparsities[number - 1], among)
                scheme = compressed_scheme(chosen.bits[number - 1], sparsity)
                packed = compress_block(config, layer, moments, scheme, sparsity)
                layer = filled_block(config, number, layer, packed)
                for name, matrix in packed.items():
                    instead |= _by_tensor(checkpoint, layer.kind, number, name, matrix)
            states = run_in_parts(config, number, layer, states)
        yield stored_layer(checkpoint, number, instead)
        on_step(f"layer {number}")


def _by_tensor(
    checkpoint: Checkpoint, kind: LayerKind, number: int, name: str, matrix: Packed
) -> Matrices:
    """A matrix of a block in the parts that a checkpoint keeps apart."""
    config, parameter = checkpoint.config, f"{name}.weight"
    names = parameter_names(config, kind, parameter, number - 1)
    rows = split_parameter(config, parameter, torch.arange(matrix.shape[0]))
    pairs = zip(names, rows, strict=True)
    return {tensor: rows_of(matrix, int(x[0]), int(x[-1]) + 1) for tensor, x in pairs}
