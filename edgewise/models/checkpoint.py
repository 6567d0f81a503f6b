"""Checkpoints: read only the tensors asked for, from a folder, from the hub or from a GGUF file.

Of folders and the hub only safetensors files are read. Pickled `.bin` files can run code when
opened and are refused.
"""

import json
import os
from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import Any, Protocol

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from edgewise.demo import MODEL_FOLDER
from edgewise.errors import ModelError
from edgewise.models.config import DecoderConfig, is_packed
from edgewise.models.decoder import Decoder, Layer
from edgewise.models.gguf.checkpoint import GgufCheckpoint
from edgewise.models.hub import CONFIG, HUB_ID, hub_file
from edgewise.models.named import NAMED, named_file
from edgewise.models.names import table_name, tensor_names
from edgewise.quantization.packed import Packed
from edgewise.schemes import DEFAULT
from edgewise.specs import ModelSpec

SINGLE, INDEX = "model.safetensors", "model.safetensors.index.json"
HEAD = "lm_head.weight"  # in every family's checkpoints
MAX_JSON_BYTES = 64 * 2**20
GGUF = ".gguf"
# What config.json calls the types that checkpoints have, and the schemes that are the same.
OWN_TYPES = {"float32": "fp32", "bfloat16": "bf16", "float16": "fp16"}
_FLOATS = (torch.float32, torch.bfloat16, torch.float16)


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


class SafetensorsCheckpoint:
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
        self.hf_config = read_json(self.config_path)
        self.config = DecoderConfig.from_dict(self.hf_config, str(self.config_path))
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

    @property
    def notes(self) -> list[str]:
        """Nothing: the files are read as they are."""
        return []

    @cached_property
    def spec(self) -> ModelSpec:
        """The model's shape; `stored` means the checkpoint's own type. Raises ModelError."""
        name = self.hf_config.get("dtype") or self.hf_config.get("torch_dtype")
        scheme = OWN_TYPES.get(str(name).removeprefix("torch."))
        if scheme is None:  # the configuration does not say: the embedding's type
            scheme = self._table_type()
        return self.config.spec(self.model, scheme)

    def _table_type(self) -> str:
        path, name = self.path(self._table), self.name(self._table)
        with safe_open(path, framework="pt") as file:
            kind = file.get_slice(name).get_dtype()
        return {"F32": "fp32", "F16": "fp16", "BF16": "bf16"}.get(kind, DEFAULT)

    def tensors(self) -> list[str]:
        """The names of all tensors."""
        return sorted(self.files)

    def where(self, tensor: str) -> str:
        """A tensor's name and file, for messages."""
        return f"'{tensor}' in {self.files[self.name(tensor)]}"

    def stored(self, tensor: str) -> Tensor | Packed:
        """One matrix as the files have it."""
        return self.read(tensor)

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
                weights = file.get_tensor(stored)
        except (SafetensorError, OSError) as error:
            raise ModelError(f"{path}: cannot read tensor '{tensor}': {error}") from None
        if weights.dtype not in _FLOATS:
            kind = str(weights.dtype).removeprefix("torch.")
            raise ModelError(f"{path}: tensor '{tensor}' is {kind}; supported: fp32, bf16, fp16")
        return weights


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
    """Open a model: a folder, a GGUF file, a hub id such as "Qwen/Qwen3-0.6B", "demo", the one that
    ships, or another name of `named.py`.

    Raises ModelError where it is none of them, or holds no supported checkpoint.
    """
    if (path := gguf_file(str(model))) is not None:
        return GgufCheckpoint(str(model), path)
    from edgewise.models.packed_checkpoint import PackedCheckpoint  # on top of this file

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
