"""GGUF files as checkpoints: tensors under Hugging Face's names, read one at a time."""

import re
from collections.abc import Iterator
from pathlib import Path

import torch
from torch import Tensor

from edgewise.errors import ModelError
from edgewise.models.config import DecoderConfig
from edgewise.models.gguf.blocks import BLOCK_TYPES, repacked, values
from edgewise.models.gguf.config import PERMUTED, architecture, hf_config
from edgewise.models.gguf.header import TensorEntry, read_header
from edgewise.models.gguf.names import ROPE_DIVISORS, gguf_name, hf_name
from edgewise.models.gguf.spec import OTHER, gguf_spec, tensor_entry
from edgewise.quantization.packed import Packed, joined
from edgewise.schemes import TILE_ROWS, get_scheme

FLOATS = {"F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16}
ROWS_AT_ONCE = 64 * TILE_ROWS  # read and repacked, which bounds the memory that it takes
MOST_ROPE_BYTES = 2**16
_ROTATED = re.compile(r"blk\.\d+\.attn_([qk])\.(weight|bias)")


class GgufCheckpoint:
    """One GGUF file. Only its header is read until a tensor is asked for, and then that tensor."""

    def __init__(self, model: str, path: Path) -> None:
        self.model, self._path = model, path
        self.header = read_header(path)
        self._architecture = architecture(self.header, str(path))
        self.hf_config = hf_config(self.header, self._rope_divisors(), str(path))
        self.config = DecoderConfig.from_dict(self.hf_config, str(path))
        self.spec = gguf_spec(model, self.config, self.header, str(path))

    @property
    def notes(self) -> list[str]:
        """What users should know of the file."""
        kinds = {tensor.kind for tensor in self.header.tensors.values()}
        others = kinds - FLOATS.keys() - BLOCK_TYPES.keys()
        if not others:
            return []
        names = ", ".join(sorted(others))
        return [f"no scheme holds the types {names}: these matrices are kept as {OTHER}"]

    def _entry(self, tensor: str) -> TensorEntry:
        return tensor_entry(self.header, tensor, str(self._path))

    def tensors(self) -> list[str]:
        """The names of all tensors that a layer is made of."""
        return sorted(filter(None, map(hf_name, self.header.tensors)))

    def path(self, tensor: str) -> Path:
        """The file that holds a tensor. Raises ModelError where it is missing."""
        self._entry(tensor)
        return self._path

    def where(self, tensor: str) -> str:
        """A tensor's name and file, for messages."""
        return f"'{gguf_name(tensor)}' in {self._path}"

    def read(self, tensor: str) -> Tensor:
        """One tensor in floating point: as it is, or float32 where it is in blocks. Raises
        ModelError."""
        entry = self._entry(tensor)
        if entry.kind in FLOATS:
            return self._floats(entry)
        whole, row = torch.empty(entry.shape), 0
        for raw in self._rows(entry):
            whole[row : row + len(raw)] = self._decoded(entry, raw)
            row += len(raw)
        return whole

    def stored(self, tensor: str) -> Tensor | Packed:
        """One matrix as the file has it: codes carried over exactly, or floating point, which types
        of blocks that no scheme of ours can hold are turned into. Raises ModelError."""
        entry = self._entry(tensor)
        if entry.kind in FLOATS:
            return self._floats(entry)
        if entry.kind not in BLOCK_TYPES:
            return self.read(tensor).to(getattr(torch, get_scheme(OTHER).compute))
        try:
            return joined([repacked(entry.kind, raw) for raw in self._rows(entry)])
        except ModelError as error:
            raise self._fails(entry, error) from None

    def _decoded(self, entry: TensorEntry, raw: Tensor) -> Tensor:
        from gguf.constants import GGMLQuantizationType
        from gguf.quants import dequantize

        try:
            if entry.kind in BLOCK_TYPES:
                return values(entry.kind, raw)
            return torch.from_numpy(dequantize(raw.numpy(), GGMLQuantizationType[entry.kind]))
        except (ModelError, NotImplementedError) as error:
            raise self._fails(entry, error) from None

    def _fails(self, entry: TensorEntry, error: Exception) -> ModelError:
        return ModelError(f"{self._path}: tensor '{entry.name}' of type {entry.kind}: {error}")

    def _floats(self, entry: TensorEntry) -> Tensor:
        whole = self._bytes(entry.offset, entry.nbytes).view(FLOATS[entry.kind]).view(entry.shape)
        order = self._order(entry)
        return whole if order is None else whole[order]

    def _rows(self, entry: TensorEntry) -> Iterator[Tensor]:
        """Rows uint8 [rows, bytes] of a matrix in blocks, some at a time, in our order."""
        if len(entry.shape) != 2:
            raise self._fails(entry, ValueError(f"shape {list(entry.shape)} is not a matrix's"))
        rows, order = entry.shape[0], self._order(entry)
        row_bytes = entry.nbytes // rows
        at_once = ROWS_AT_ONCE if order is None else rows
        for row in range(0, rows, at_once):
            count = min(at_once, rows - row)
            raw = self._bytes(entry.offset + row * row_bytes, count * row_bytes)
            raw = raw.view(count, row_bytes)
            yield raw if order is None else raw[order]

    def _order(self, entry: TensorEntry) -> Tensor | None:
        """The file's row of every row of ours, where they differ. llama.cpp rotates neighbours (2i,
        2i + 1) of a head where Hugging Face rotates (i, i + D/2)."""
        match, config = _ROTATED.fullmatch(entry.name), self.config
        if match is None or self._architecture not in PERMUTED:
            return None
        heads = config.num_heads if match[1] == "q" else config.num_kv_heads
        if entry.shape[0] != heads * config.head_dim or config.head_dim % 2:
            return None  # the wrong shape, which whoever asked for the tensor will say
        return torch.arange(entry.shape[0]).view(heads, -1, 2).transpose(1, 2).flatten()

    def _rope_divisors(self) -> list[float] | None:
        entry = self.header.tensors.get(ROPE_DIVISORS)
        if entry is None:
            return None
        if entry.kind != "F32" or entry.nbytes > MOST_ROPE_BYTES:
            raise self._fails(entry, ValueError("rotary factors are F32 and few"))
        divisors = self._bytes(entry.offset, entry.nbytes).view(torch.float32)
        if not (divisors.isfinite() & (divisors > 0)).all():
            raise self._fails(entry, ValueError("rotary factors are positive numbers"))
        return [float(divisor) for divisor in divisors]

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
