"""Writes checkpoints of packed matrices (packed_checkpoint.py), one layer in memory at a time."""

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import msgspec
import torch
from torch import Tensor

from edgewise.errors import ModelError
from edgewise.models.checkpoint import Checkpoint
from edgewise.models.config import EDGEWISE
from edgewise.models.decoder import build_layer
from edgewise.models.hub import CONFIG
from edgewise.models.loading import matrix_modules
from edgewise.models.names import tensor_names
from edgewise.models.new_folder import check_vacant, new_folder, write_json
from edgewise.models.packed_checkpoint import (
    COMPUTE,
    FORMAT,
    PackedDescription,
    PackedMatrix,
)
from edgewise.models.safetensors_checkpoint import HEAD, INDEX
from edgewise.models.tokenizer import copy_tokenizer
from edgewise.quantization.packed import Packed, shape_of
from edgewise.schemes import get_scheme
from edgewise.tensor_files import write_tensors

COMPUTED = getattr(torch, get_scheme(COMPUTE).compute)
FLOAT_NAMES = {torch.float32: "fp32", torch.bfloat16: "bf16", torch.float16: "fp16"}

Tensors = Mapping[str, Tensor | Packed]  # by the checkpoint's names


def check_packable(checkpoint: Checkpoint, folder: Path) -> None:
    """Raise ModelError for a model, InputError for a folder, that `write_packed` refuses."""
    check_vacant(folder)
    if checkpoint.config.embed_size != checkpoint.config.hidden_size:
        raise ModelError(
            f"{checkpoint.model}: embeddings narrower than hidden states cannot be written packed"
        )


def stored_layer(source: Checkpoint, number: int, instead: Tensors) -> dict[str, Tensor | Packed]:
    """The tensors of a layer by name: matrices as the source has them, or `instead`, and the rest
    in the type that is computed in. Raises ModelError."""
    with torch.device("meta"):
        layer = build_layer(source.config, number)
    matrices = {f"{name}.weight" for name, _ in matrix_modules(layer)}
    tensors: dict[str, Tensor | Packed] = {}
    for parameter in layer.state_dict():
        for name in tensor_names(source.config.names, layer.kind, parameter, number - 1):
            if source.config.tied and name == HEAD:
                continue  # the embedding's
            if name in instead:
                tensors[name] = instead[name]
            elif parameter in matrices:
                tensors[name] = source.stored(name)
            else:
                tensors[name] = source.read(name).to(COMPUTED)
    return tensors


def write_packed(source: Checkpoint, layers: Iterable[Tensors], folder: Path) -> int:
    """Write layers, of each its tensors, as a checkpoint of `source`'s shape; matrices among them
    may be packed. Returns the bytes of all tensors. The folder appears whole or not at all. Raises
    InputError, ModelError, DiskError."""
    check_packable(source, folder)
    with new_folder(folder) as partial:
        places, matrices, total = dict[str, str](), dict[str, PackedMatrix](), 0
        for number, tensors in enumerate(layers):
            file = f"layer-{number:05}.safetensors"
            parts, found = _flat(tensors)
            write_tensors(partial / file, parts, {"format": "pt"})
            places |= dict.fromkeys(parts, file)
            matrices |= found
            total += sum(part.nbytes for part in parts.values())
        write_json(partial / INDEX, {"metadata": {"total_size": total}, "weight_map": places})
        write_json(partial / CONFIG, _config(source, matrices))
        copy_tokenizer(source.model, partial)
    return total


def _flat(tensors: Tensors) -> tuple[dict[str, Tensor], dict[str, PackedMatrix]]:
    """What is written of a layer, and what its matrices are."""
    parts, matrices = dict[str, Tensor](), dict[str, PackedMatrix]()
    for name, tensor in tensors.items():
        if isinstance(tensor, Packed):
            matrices[name] = PackedMatrix(tensor.scheme.name, *tensor.shape)
            parts |= {f"{name}.{part}": x for part, x in tensor.tensors.items()}
            continue
        parts[name] = tensor
        if tensor.ndim == 2:
            matrices[name] = PackedMatrix(FLOAT_NAMES[tensor.dtype], *shape_of(tensor))
    return parts, matrices


def _config(source: Checkpoint, matrices: dict[str, PackedMatrix]) -> dict[str, Any]:
    described = PackedDescription(EDGEWISE, FORMAT, matrices)
    return {
        **source.hf_config,
        "model_type": EDGEWISE,  # for others: transformers would take an unknown method for none
        "tie_word_embeddings": source.config.tied,
        "dtype": str(COMPUTED).removeprefix("torch."),
        "quantization_config": msgspec.to_builtins(described),
    }
