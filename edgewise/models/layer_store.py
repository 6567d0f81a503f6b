"""The layers of a model as files to be sent: made when they are asked for, and kept, so that no
layer is quantized, written or hashed twice."""

import os
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from uuid import uuid4

import msgspec
import torch

from edgewise.caches import cache_key, is_cached, make_room, remove, write_text_atomically
from edgewise.errors import DiskError, ModelError
from edgewise.models.blank import META
from edgewise.models.checkpoint import Checkpoint
from edgewise.models.decoder import build_layer
from edgewise.models.digests import file_stamp, tensor_digests
from edgewise.models.layer_files import (
    FORMAT,
    LayerFile,
    content_key,
    layer_folder,
    layer_path,
    save_layer,
)
from edgewise.models.loading import Loader
from edgewise.models.names import parameter_names
from edgewise.models.pieces import PIECE_BYTES, compressed
from edgewise.plans import Stage
from edgewise.quantization.rounding import calibration_of, default_method, sees_pairs
from edgewise.quantization.store import MOST_BYTES, Store
from edgewise.schemes import Family, Scheme, get_scheme

_CPU = torch.device("cpu")


class _Made(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What is remembered: a file, as long as its stamp is the same."""

    file: LayerFile
    stamp: list[int | str]


@dataclass(frozen=True)
class LayerFiles:
    """Of one checkpoint, rounded by a method (Loader). Beyond `most_bytes` in the folder, files
    not used for longest are deleted."""

    checkpoint: Checkpoint
    rounding: str | None = None
    folder: Path = field(default_factory=layer_folder)
    most_bytes: int = MOST_BYTES
    _given: dict[str, LayerFile] = field(default_factory=dict, repr=False)

    def of_stage(self, stage: Stage) -> list[LayerFile]:
        """The files of a stage's layers, for a device without the model. A tied head beside the
        embedding in the same scheme takes its matrix, as `load_shard` does."""
        last, schemes = self.checkpoint.config.num_layers - 1, stage.schemes
        both = stage.start == 0 and stage.end == last + 1 and schemes[0] == schemes[-1]
        shared = both and self.checkpoint.config.tied
        return [
            self.file(number, scheme, shared=shared and number == last)
            for number, scheme in enumerate(schemes, stage.start)
        ]

    def file(self, layer: int, scheme: str, *, shared: bool = False) -> LayerFile:
        """The file of a layer; `shared`: of a tied head, without its matrix. Raises ModelError,
        QuantizationError, SchemeError, DiskError."""
        config = self.checkpoint.config
        if shared and not (config.tied and layer == config.num_layers - 1):
            raise ModelError(f"layer {layer} of {self.checkpoint.model} shares no matrix")
        memo = self._memo(layer, get_scheme(scheme), shared)
        file = self._remembered(memo) or self._made(layer, get_scheme(scheme), shared)
        self._remember(memo, file)
        self._given[file.key] = file
        return file

    def piece(
        self, key: str, offset: int, size: int = PIECE_BYTES, *, bytes_per_second: float
    ) -> tuple[bytes, bool]:
        """At most so many bytes of a file from `offset` on, and whether they are compressed, which
        they are where that pays over such a link (pieces.py). Raises ModelError for files not
        handed out before, and where there is nothing, DiskError."""
        file = self._given.get(key)
        if file is None:
            raise ModelError(f"no layer's file {key[:80]!r} was handed out")
        if not (0 <= offset < file.size and size > 0):
            raise ModelError(f"file {key} has no {size} bytes from {offset} on, only {file.size}")
        path = layer_path(self.folder, key)
        try:
            with path.open("rb") as content:
                content.seek(offset)
                piece = content.read(min(size, PIECE_BYTES, file.size - offset))
        except OSError as error:
            raise DiskError(f"{path}: cannot be read: {error}") from None
        if not piece:
            raise ModelError(f"{path}: ends before byte {offset}")
        return compressed(piece, bytes_per_second)

    def _memo(self, number: int, scheme: Scheme, shared: bool) -> Path | None:
        """Where it is remembered which file a layer is; None where nobody can know."""
        spec, config = self.checkpoint.spec.layers[number], self.checkpoint.config
        scheme = spec.concrete(scheme)
        rounded = scheme.family not in (Family.FLOAT, Family.STORED)
        method = (self.rounding or default_method(scheme)) if rounded else ""
        # GPTQ without its text's name could be anything.
        if sees_pairs(method) and not calibration_of(method):
            return None
        with META:
            empty = build_layer(config, number)
        names = [
            name
            for parameter in empty.state_dict()
            for name in parameter_names(config, empty.kind, parameter, number - 1)
        ]
        content = (number, config, spec, scheme.name, method, shared)
        key = cache_key(FORMAT, content, tuple(tensor_digests(self.checkpoint, names)))
        return self.folder / f"{key}.json"

    def _remembered(self, memo: Path | None) -> LayerFile | None:
        if memo is None or not is_cached(memo):
            return None
        try:
            made = msgspec.json.decode(memo.read_bytes(), type=_Made)
            same = file_stamp(layer_path(self.folder, made.file.key)) == made.stamp
        except (OSError, msgspec.MsgspecError, ModelError, ValueError):
            return None
        return made.file if same else None

    def _remember(self, memo: Path | None, file: LayerFile) -> None:
        """And that it was used now."""
        path = layer_path(self.folder, file.key)
        try:
            os.utime(path)
            made = _Made(file, file_stamp(path))
        except OSError:  # others' files, and those being deleted now
            return
        write_text_atomically(memo, msgspec.json.encode(made).decode())

    def _made(self, number: int, scheme: Scheme, shared: bool) -> LayerFile:
        loader = Loader(self.checkpoint, _CPU, self.rounding, Store.default())
        layer = loader.layer(number, scheme, loader.layer(0, scheme) if shared else None)
        partial = self.folder / f"{number}.{uuid4().hex}.part"
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            save_layer(layer, partial, shared=shared)
            file = LayerFile(number, content_key(partial), partial.stat().st_size)
            path = layer_path(self.folder, file.key)
            partial.replace(path)
        except OSError as error:
            raise DiskError(f"{self.folder}: layer {number} cannot be kept: {error}") from None
        finally:
            remove(partial)
        make_room(self.folder.iterdir(), self.most_bytes, {path, *self._paths()})
        return file

    def _paths(self) -> Sequence[Path]:
        """What was handed out, and may be asked for."""
        return [layer_path(self.folder, key) for key in self._given]
