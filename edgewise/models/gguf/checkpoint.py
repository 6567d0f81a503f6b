"""GGUF files as checkpoints: tensors under Hugging Face's names, read one at a time."""

import re
from collections.abc import Iterator
from functools import cached_property
from pathlib import Path

import torch
from torch import Tensor

from edgewise.errors import ModelError
from edgewise.models.config import DecoderConfig
from edgewise.models.gguf.blocks import BLOCK_TYPES, repacked, values
from edgewise.models.gguf.config import PERMUTED, architecture, hf_config
from edgewise.models.gguf.header import TensorInfo, read_header
from edgewise.models.gguf.names import ROPE_DIVISORS, gguf_name, hf_name
from edgewise.models.stored import stored_parts
from edgewise.quantization.packed import Packed, joined
from edgewise.schemes import TILE_ROWS, get_scheme
from edgewise.specs import ModelSpec

FLOATS = {"F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16}
FLOAT_SCHEMES = {"F32": "fp32", "F16": "fp16", "BF16": "bf16"}
OTHER = "bf16"  # what types that have no scheme of ours are kept as
ROWS_AT_ONCE = 64 * TILE_ROWS  # read and repacked, which bounds the memory that it takes
MOST_ROPE_BYTES = 2**16
_ROTATED = re.compile(r"blk\.\d+\.attn_([qk])\.(weight|bias)")


class GgufCheckpoint:
    """One GGUF file. Only its header is read until a tensor is asked for, and then that tensor."""

    def __init__(self, model: str, path: Path) -> None:
        self.model, self._path = model, path
        self.header = read_header(path)
        self._architecture = architecture(self.header, str(path))
        config = hf_config(self.header, self._rope_divisors(), str(path))
        self.config = DecoderConfig.from_dict(config, str(path))

    @property
    def notes(self) -> list[str]:
        """What users should know of the file."""
        kinds = {x.kind for x in self.header.tensors.values()} - FLOATS.keys() - BLOCK_TYPES.keys()
        if not kinds:
            return []
        names = ", ".join(sorted(kinds))
        return [f"no scheme holds the types {names}: these matrices are kept as {OTHER}"]

    @cached_property
    def spec(self) -> ModelSpec:
        """The model's shape, with what the file has of every matrix."""
        kinds = {x.kind for x in self.header.tensors.values() if len(x.shape) > 1}
        same = len(kinds) == 1 and kinds <= FLOATS.keys()
        compute = FLOAT_SCHEMES[kinds.pop()] if same else OTHER
        stored = None if same else stored_parts(self.config, self._part)
        return self.config.spec(self.model, compute, stored)

    def _part(self, tensor: str) -> tuple[int, str]:
        info = self._info(tensor)
        return info.shape[0], scheme_name(info.kind)

    def _info(self, tensor: str) -> TensorInfo:
        name = gguf_name(tensor)
        if name not in self.header.tensors:
            raise ModelError(f"{self._path}: tensor '{name}' is missing from the file")
        return self.header.tensors[name]

    def tensors(self) -> list[str]:
        """The names of all tensors that a layer is made of."""
        return sorted(filter(None, map(hf_name, self.header.tensors)))

    def path(self, tensor: str) -> Path:
        """The file that holds a tensor. Raises ModelError where it is missing."""
        self._info(tensor)
        return self._path

    def where(self, tensor: str) -> str:
        """A tensor's name and file, for messages."""
        return f"'{gguf_name(tensor)}' in {self._path}"

    def read(self, tensor: str) -> Tensor:
        """One tensor in floating point: as it is, or float32 where it is in blocks. Raises
        ModelError."""
        info = self._info(tensor)
        if info.kind in FLOATS:
            return self._floats(info)
        whole, row = torch.empty(info.shape), 0
        for raw in self._rows(info):
            whole[row : row + len(raw)] = self._decoded(info, raw)
            row += len(raw)
        return whole

    def stored(self, tensor: str) -> Tensor | Packed:
        """One matrix as the file has it: codes carried over exactly, or floating point, which types
        of blocks that no scheme of ours can hold are turned into. Raises ModelError."""
        info = self._info(tensor)
        if info.kind in FLOATS:
            return self._floats(info)
        if info.kind not in BLOCK_TYPES:
            return self.read(tensor).to(getattr(torch, get_scheme(OTHER).compute))
        try:
            return joined([repacked(info.kind, raw) for raw in self._rows(info)])
        except ModelError as error:
            raise self._fails(info, error) from None

    def _decoded(self, info: TensorInfo, raw: Tensor) -> Tensor:
        from gguf.constants import GGMLQuantizationType
        from gguf.quants import dequantize

        try:
            if info.kind in BLOCK_TYPES:
                return values(info.kind, raw)
            return torch.from_numpy(dequantize(raw.numpy(), GGMLQuantizationType[info.kind]))
        except (ModelError, NotImplementedError) as error:
            raise self._fails(info, error) from None

    def _fails(self, info: TensorInfo, error: Exception) -> ModelError:
        return ModelError(f"{self._path}: tensor '{info.name}' of type {info.kind}: {error}")

    def _floats(self, info: TensorInfo) -> Tensor:
        whole = self._bytes(info.offset, info.nbytes).view(FLOATS[info.kind]).view(info.shape)
        order = self._order(info)
        return whole if order is None else whole[order]

    def _rows(self, info: TensorInfo) -> Iterator[Tensor]:
        """Rows uint8 [rows, bytes] of a matrix in blocks, some at a time, in our order."""
        if len(info.shape) != 2:
            raise self._fails(info, ValueError(f"shape {list(info.shape)} is not a matrix's"))
        rows, order = info.shape[0], self._order(info)
        row_bytes = info.nbytes // rows
        at_once = ROWS_AT_ONCE if order is None else rows
        for row in range(0, rows, at_once):
            count = min(at_once, rows - row)
            raw = self._bytes(info.offset + row * row_bytes, count * row_bytes)
            raw = raw.view(count, row_bytes)
            yield raw if order is None else raw[order]

    def _order(self, info: TensorInfo) -> Tensor | None:
        """The file's row of every row of ours, where they differ. llama.cpp rotates neighbours (2i,
        2i + 1) of a head where Hugging Face rotates (i, i + D/2)."""
        match, config = _ROTATED.fullmatch(info.name), self.config
        if match is None or self._architecture not in PERMUTED:
            return None
        heads = config.num_heads if match[1] == "q" else config.num_kv_heads
        if info.shape[0] != heads * config.head_dim or config.head_dim % 2:
            return None  # the wrong shape, which whoever asked for the tensor will say
        return torch.arange(info.shape[0]).view(heads, -1, 2).transpose(1, 2).flatten()

    def _rope_divisors(self) -> list[float] | None:
        info = self.header.tensors.get(ROPE_DIVISORS)
        if info is None:
            return None
        if info.kind != "F32" or info.nbytes > MOST_ROPE_BYTES:
            raise self._fails(info, ValueError("rotary factors are F32 and few"))
        divisors = self._bytes(info.offset, info.nbytes).view(torch.float32)
        if not (divisors.isfinite() & (divisors > 0)).all():
            raise self._fails(info, ValueError("rotary factors are positive numbers"))
        return [float(x) for x in divisors]

    def _bytes(self, offset: int, count: int) -> Tensor:
        """Bytes of the file. Plain reads: a mapped file that is cut short meanwhile would end the
        process."""
        raw = torch.empty(count, dtype=torch.uint8)
        try:
            with self._path.open("rb", buffering=0) as file:
                file.seek(offset)
                buffer, done = raw.numpy(), 0
                while done < count and (read := file.readinto(buffer[done:].data)):
                    done += read
        except OSError as error:
            raise ModelError(f"{self._path}: cannot be read: {error}") from None
        if done < count:
            raise ModelError(f"{self._path}: ends before byte {offset + count}")
        return raw


def scheme_name(kind: str) -> str:
    """The scheme that holds a tensor of ggml type `kind`."""
    if kind in BLOCK_TYPES:
        return BLOCK_TYPES[kind].scheme.name
    return FLOAT_SCHEMES.get(kind, OTHER)
