"""Hugging Face checkpoints: read only the tensors asked for, from a folder or from the hub.

Only safetensors files are read. Pickled `.bin` files can run code when opened and are refused.
"""

import json
import os
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from edgewise.demo import MODEL_FOLDER
from edgewise.errors import ModelError
from edgewise.models.config import DecoderConfig
from edgewise.models.decoder import Decoder, Layer
from edgewise.models.hub import CONFIG, HUB_ID, hub_file
from edgewise.models.names import table_name, tensor_names

SINGLE, INDEX = "model.safetensors", "model.safetensors.index.json"
HEAD = "lm_head.weight"  # in every family's checkpoints
MAX_JSON_BYTES = 64 * 2**20
_FLOATS = (torch.float32, torch.bfloat16, torch.float16)


class Checkpoint:
    """A folder or hub repository with `config.json` and safetensors weights.

    `files` maps each tensor to the file that holds it. Nothing but the configuration and the index
    is read until `read` is called; from the hub, only the files that hold such tensors are fetched.

    Where files contradict each other, what transformers does is done: a single file is preferred to
    an index with its shards, and an embedding and a head that are both there and differ are not
    tied, whatever the configuration says. So where it says that they are, and both are there, both
    are read at once.
    """

    def __init__(self, model: str, fetch: Callable[[str], Path]) -> None:
        self.model = model
        self._fetch = fetch
        self.config_path = fetch(CONFIG)
        self.config = DecoderConfig.from_dict(read_json(self.config_path), str(self.config_path))
        self.files = self._tensor_files()
        self._table = table_name(self.config.names)
        if self.config.tied and self._has_own_head():
            self.config = replace(self.config, tied=False)

    def _tensor_files(self) -> dict[str, str]:
        try:
            return dict.fromkeys(self._names_in(self._fetch(SINGLE)), SINGLE)
        except FileNotFoundError:
            return self._indexed_files()

    def _indexed_files(self) -> dict[str, str]:
        try:
            index = self._fetch(INDEX)
        except FileNotFoundError:
            raise ModelError(
                f"{self.model}: no {SINGLE} and no {INDEX}; only safetensors weights are read "
                "(pickled .bin files can run code when opened)"
            ) from None
        weight_map = read_json(index).get("weight_map")
        if not isinstance(weight_map, dict):
            raise ModelError(f"{index}: key 'weight_map' is missing")
        if outside := [f for f in weight_map.values() if Path(str(f)).name != f]:
            raise ModelError(f"{index}: file name {outside[0]!r} leaves the model's folder")
        return weight_map

    def _names_in(self, path: Path) -> list[str]:
        try:
            with safe_open(path, framework="pt") as file:
                return list(file.keys())
        except (SafetensorError, OSError) as error:
            raise ModelError(f"{path}: corrupt or truncated safetensors file: {error}") from None

    def _has_own_head(self) -> bool:
        """Whether a head that should be the embedding's matrix is there and another one."""
        if HEAD not in self.files or self.name(self._table) not in self.files:
            return False
        head, table = self.read(HEAD), self.read(self._table)
        return head.shape != table.shape or not torch.equal(head, table.to(head.dtype))

    def name(self, tensor: str) -> str:
        """The stored name of `tensor`: checkpoints of bare decoders lack the "model." in front, and
        of tied matrices one is enough."""
        bare = tensor.removeprefix("model.")
        stored = bare if tensor not in self.files and bare in self.files else tensor
        tied = self.config.tied and tensor == self._table
        return HEAD if tied and stored not in self.files and HEAD in self.files else stored

    def path(self, tensor: str) -> Path:
        """The file that holds a tensor, fetched if need be. Raises ModelError."""
        stored = self.name(tensor)
        if stored not in self.files:
            raise ModelError(f"{self.model}: tensor '{tensor}' is missing from the checkpoint")
        try:
            return self._fetch(self.files[stored])
        except FileNotFoundError:
            raise ModelError(
                f"{self.model}: file {self.files[stored]}, which should hold tensor '{tensor}', "
                "does not exist"
            ) from None

    def read(self, tensor: str) -> Tensor:
        """One tensor, in its stored type. Raises ModelError naming the file and the tensor."""
        path, stored = self.path(tensor), self.name(tensor)
        try:
            with safe_open(path, framework="pt") as file:
                value = file.get_tensor(stored)
        except (SafetensorError, OSError) as error:
            raise ModelError(f"{path}: cannot read tensor '{tensor}': {error}") from None
        if value.dtype not in _FLOATS:
            kind = str(value.dtype).removeprefix("torch.")
            raise ModelError(f"{path}: tensor '{tensor}' is {kind}; supported: fp32, bf16, fp16")
        return value


def read_json(path: Path) -> Mapping[str, Any]:
    """A JSON object from a file. Raises ModelError."""
    try:
        if path.stat().st_size > MAX_JSON_BYTES:
            raise ModelError(f"{path}: larger than {MAX_JSON_BYTES} bytes, refused")
        document = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise ModelError(f"{path}: not readable as JSON: {error}") from None
    if not isinstance(document, dict):
        raise ModelError(f"{path}: holds no JSON object")
    return document


def open_checkpoint(model: str | Path) -> Checkpoint:
    """Open a model: a folder, a hub id such as "Qwen/Qwen3-0.6B", or "demo", the one that ships.

    Raises ModelError where it is neither, or holds no supported checkpoint.
    """
    return Checkpoint(str(model), file_source(str(model)))


def file_source(model: str) -> Callable[[str], Path]:
    """A function from a file's name to its path, which raises FileNotFoundError where the model
    does not have that file. Raises ModelError where there is no such model."""
    folder = MODEL_FOLDER if model == "demo" else Path(os.path.expanduser(model))
    if folder.is_dir():
        if not (folder / CONFIG).is_file():
            raise ModelError(f"{model}: not a model folder: {CONFIG} is missing")
        return lambda name: _in_folder(folder, name)
    if folder.exists():
        raise ModelError(f"{model}: is a file; give the folder that holds {CONFIG}")
    if not HUB_ID.fullmatch(model):
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
        for parameter, value in layer.state_dict().items():
            names = tensor_names(config.names, layer.kind, parameter, number - 1)
            if config.tied and names == (HEAD,):
                continue
            for name, part in zip(names, _parts(config, parameter, value), strict=True):
                tensors[name] = part.detach().to(dtype).contiguous()
    save_file(tensors, folder / SINGLE, metadata={"format": "pt"})


def _parts(config: DecoderConfig, parameter: str, value: Tensor) -> tuple[Tensor, ...]:
    """Take a fused parameter apart again (see names.py)."""
    if parameter.startswith("qkv."):
        kv = config.num_kv_heads * config.head_dim
        return value.split((config.num_heads * config.head_dim, kv, kv))
    return value.chunk(2) if parameter.startswith("up.") and config.gated else (value,)
