"""Checkpoints of safetensors files, in a folder or on the hub. Pickled `.bin` files can run code
when opened and are refused."""

import json
from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from edgewise.errors import ModelError
from edgewise.models.config import DecoderConfig
from edgewise.models.hub import CONFIG
from edgewise.models.names import table_name
from edgewise.quantization.packed import Packed
from edgewise.schemes import DEFAULT
from edgewise.specs import ModelSpec

SINGLE, INDEX = "model.safetensors", "model.safetensors.index.json"
HEAD = "lm_head.weight"  # in every family's checkpoints
MAX_JSON_BYTES = 64 * 2**20
# What config.json calls the types that checkpoints have, and the schemes that are the same.
OWN_TYPES = {"float32": "fp32", "bfloat16": "bf16", "float16": "fp16"}
_FLOATS = (torch.float32, torch.bfloat16, torch.float16)


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
        try:
            with safe_open(path, framework="pt") as file:
                kind = file.get_slice(name).get_dtype()
        except (SafetensorError, OSError) as error:
            raise ModelError(f"{path}: cannot read tensor '{self._table}': {error}") from None
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
