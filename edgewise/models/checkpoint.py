"""Checkpoints: read only the tensors asked for, from a folder, from the hub or from a GGUF file."""

import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Protocol

import torch
from safetensors.torch import save_file
from torch import Tensor

from edgewise.demo import MODEL_FOLDER
from edgewise.errors import ModelError
from edgewise.models.config import DecoderConfig, is_packed
from edgewise.models.decoder import Decoder, Layer
from edgewise.models.gguf.checkpoint import GgufCheckpoint
from edgewise.models.hub import CONFIG, hub_file, is_hub_id
from edgewise.models.named import NAMED, named_file
from edgewise.models.names import tensor_names
from edgewise.models.packed_checkpoint import PackedCheckpoint
from edgewise.models.safetensors_checkpoint import HEAD, SINGLE, SafetensorsCheckpoint, read_json
from edgewise.quantization.packed import Packed
from edgewise.specs import ModelSpec

GGUF = ".gguf"


class Checkpoint(Protocol):
    """What loading a model's layers needs: its shape, and its tensors by Hugging Face's names."""

    model: str
    config: DecoderConfig

    @property
    def spec(self) -> ModelSpec:
        """The model's shape, with what the scheme `stored` means in it. Raises ModelError."""
        ...

    @property
    def hf_config(self) -> Mapping[str, Any]:
        """What `config.json` says, or would say."""
        ...

    @property
    def notes(self) -> list[str]:
        """What users should know of the files."""
        ...

    def tensors(self) -> list[str]:
        """The names of all tensors that a layer is made of."""
        ...

    def path(self, tensor: str) -> Path:
        """The file that holds a tensor. Raises ModelError."""
        ...

    def where(self, tensor: str) -> str:
        """A tensor's name and file, for messages."""
        ...

    def read(self, tensor: str) -> Tensor:
        """One tensor in floating point. Raises ModelError naming the file and the tensor."""
        ...

    def stored(self, tensor: str) -> Tensor | Packed:
        """One matrix as the files have it. Raises ModelError naming the file and the tensor."""
        ...


def open_checkpoint(model: str | Path) -> Checkpoint:
    """Open a model: a folder, a GGUF file, a hub id such as "Qwen/Qwen3-0.6B", "demo", the one that
    ships, or another name of `named.py`.

    Raises ModelError where it is none of them, or holds no supported checkpoint.
    """
    if (path := gguf_file(str(model))) is not None:
        return GgufCheckpoint(str(model), path)
    fetch = file_source(str(model))
    kind = PackedCheckpoint if is_packed(read_json(fetch(CONFIG))) else SafetensorsCheckpoint
    return kind(str(model), fetch)


def gguf_file(model: str) -> Path | None:
    """The GGUF file that is meant by `model`, if one is: by its path, by the folder that holds it
    and no `config.json`, or by a name. Raises ModelError where a folder holds several."""
    path = Path(os.path.expanduser(model))
    if model in NAMED and not path.exists():
        return named_file(model)
    if path.is_file():
        return path if path.suffix.lower() == GGUF else None
    if not path.is_dir() or (path / CONFIG).is_file():
        return None
    files = sorted(file for file in path.iterdir() if file.suffix.lower() == GGUF)
    if len(files) > 1:
        names = ", ".join(file.name for file in files)
        raise ModelError(f"{model}: holds several GGUF files; give one of them: {names}")
    return files[0] if files else None


def file_source(model: str) -> Callable[[str], Path]:
    """A function from a file's name to its path, which raises FileNotFoundError where the model
    does not have that file. Raises ModelError where there is no such model."""
    folder = MODEL_FOLDER if model == "demo" else Path(os.path.expanduser(model))
    if folder.is_dir():
        if not (folder / CONFIG).is_file():
            raise ModelError(f"{model}: not a model folder: {CONFIG} is missing")
        return lambda name: _in_folder(folder, name)
    if folder.exists():
        raise ModelError(
            f"{model}: is a file, and no {GGUF} one; give the folder that holds {CONFIG}"
        )
    if not is_hub_id(model):
        raise ModelError(f"{model}: no such folder")
    return lambda name: hub_file(model, name)


def _in_folder(folder: Path, name: str) -> Path:
    path = folder / name
    if not path.is_file():
        raise FileNotFoundError(path)
    return path


def save_checkpoint(decoder: Decoder, folder: Path, dtype: torch.dtype) -> None:
    """Write a decoder's weights as `model.safetensors` under Hugging Face's tensor names."""
    config, tensors = decoder.config, {}
    for number, layer in enumerate(decoder.layers):
        assert isinstance(layer, Layer)
        for parameter, weights in layer.state_dict().items():
            names = tensor_names(config.names, layer.kind, parameter, number - 1)
            if config.tied and names == (HEAD,):
                continue
            for name, part in zip(names, split_parameter(config, parameter, weights), strict=True):
                tensors[name] = part.detach().to(dtype).contiguous()
    save_file(tensors, folder / SINGLE, metadata={"format": "pt"})


def split_parameter(config: DecoderConfig, parameter: str, weights: Tensor) -> tuple[Tensor, ...]:
    """A fused parameter in the parts that a file keeps apart (names.py)."""
    if parameter.startswith("qkv."):
        kv = config.num_kv_heads * config.head_dim
        return weights.split((config.num_heads * config.head_dim, kv, kv))
    return weights.chunk(2) if parameter.startswith("up.") and config.gated else (weights,)
