"""A loaded layer as a file, and back: for devices that have no copy of the model.

A safetensors file with the layer's tensors under their modules' names, as `state_dict` has them.
What else a layer consists of follows from the model's shape and the scheme. A tied head that lies
beside the embedding in the same scheme has no matrix in its file: it is the embedding's. Files are
named by the SHA-256 of their content.
"""

import hashlib
import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType

import msgspec
import torch
from safetensors import SafetensorError
from torch import Tensor

from edgewise.caches import cache_folder, remove
from edgewise.errors import DiskError, ModelError
from edgewise.models.blank import blank_layer
from edgewise.models.decoder import Embedding, Head, Layer, Origin
from edgewise.models.shape import ModelShape
from edgewise.quantization.store import FORMAT as PACKED_FORMAT
from edgewise.schemes import Scheme, get_scheme
from edgewise.tensor_files import read_tensors, write_tensors

FORMAT = f"{PACKED_FORMAT}.1"  # of codes, and of the file
MATRIX = "out."  # a head's, in the names of its tensors
_KEY = re.compile("[0-9a-f]{64}")
_DAMAGES = (SafetensorError, OSError, ValueError, KeyError, TypeError, RuntimeError)


class LayerFile(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A layer as a file: `key` names its content and is its SHA-256."""

    layer: int
    key: str
    size: int


def layer_folder() -> Path:
    """Where this user's layer files are kept. Raises ModelError without a home."""
    folder = cache_folder("shards")
    if folder is None:
        raise ModelError("no folder to keep layers in: set XDG_CACHE_HOME")
    return folder


def layer_path(folder: Path, key: str) -> Path:
    """Raises ModelError for what is no key."""
    if not _KEY.fullmatch(key):
        raise ModelError(f"{key[:80]!r} is no name of a layer's file")
    return folder / f"{key}.safetensors"


def save_layer(layer: Layer, path: Path, *, shared: bool = False) -> None:
    """Equal layers become equal bytes. `shared`: without the matrix of a tied head. Raises
    OSError."""
    tensors = {
        name: tensor.cpu()
        for name, tensor in layer.state_dict().items()
        if not (shared and name.startswith(MATRIX))
    }
    write_tensors(path, tensors, {"format": FORMAT})


def load_layer(
    shape: ModelShape,
    number: int,
    scheme: Scheme,
    path: Path,
    device: torch.device,
    tied: Layer | None = None,
) -> Layer:
    """Layer `number`, as `Loader.layer` made it: the same bits. A head whose file has no matrix
    takes that of the embedding `tied`. Raises ModelError, naming the file, where it holds anything
    else than this layer in this scheme."""
    layer = blank_layer(shape.config, number, scheme, shape.spec.layers[number])
    expected = layer.state_dict()
    tensors = {name: tensor.to(device) for name, tensor in _read(path).items()}
    if isinstance(layer, Head) and not any(name.startswith(MATRIX) for name in tensors):
        tensors |= _table(expected, scheme, tied, path)
    check_parts(expected, tensors, path, f"{number} of {shape.name} in {scheme.name}")
    layer.load_state_dict(tensors, assign=True)
    layer.origin = Origin(path.name, number, scheme.name, None, str(device))
    return layer.requires_grad_(False)


def check_parts(
    expected: Mapping[str, Tensor], tensors: Mapping[str, Tensor], path: Path, layer: str
) -> None:
    """Raises ModelError where a file's tensors are not those that the layer has."""
    wrong = [name for name, tensor in expected.items() if not _alike(tensor, tensors.get(name))]
    if wrong := sorted({*wrong, *tensors.keys() - expected.keys()}):
        raise ModelError(
            f"{path}: is not layer {layer}, or damaged: tensor '{wrong[0]}' is missing, of another "
            "type or size, or does not belong there"
        )


def layers_from_files(
    shape: ModelShape,
    start: int,
    schemes: Sequence[str],
    files: Sequence[LayerFile],
    folder: Path,
    *,
    device: str = "cpu",
    there: Mapping[int, Layer] = MappingProxyType({}),
    on_layer: Callable[[int], None] = lambda layer: None,
) -> list[Layer]:
    """Layers [start, start + len(schemes)), what `load_shard` loads from a checkpoint, from files
    of a folder, but for those that are `there`. Raises DiskError and ModelError; a damaged file is
    deleted then, so that it can be fetched again."""
    known = {file.layer: file for file in files}
    layers: list[Layer] = []
    for number, scheme in enumerate(map(get_scheme, schemes), start):
        if number in there:
            layers.append(there[number])
            continue
        if number not in known:
            raise ModelError(f"layer {number} of {shape.name} has no file")
        file, tied = known[number], layers[0] if layers else None
        layers.append(layer_from_file(shape, file, scheme, folder, torch.device(device), tied))
        on_layer(number)
    return layers


def layer_from_file(
    shape: ModelShape,
    file: LayerFile,
    scheme: Scheme,
    folder: Path,
    device: torch.device,
    tied: Layer | None = None,
) -> Layer:
    """A layer from its file in a folder, whose content is checked first. Raises DiskError and
    ModelError; a damaged file is deleted then."""
    path = layer_path(folder, file.key)
    _check_content(path, file.key)
    return load_layer(shape, file.layer, scheme, path, device, tied)


def content_key(path: Path) -> str:
    """Raises OSError."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _check_content(path: Path, key: str) -> None:
    try:
        content = content_key(path)
    except OSError as error:
        raise DiskError(f"{path}: cannot be read: {error}") from None
    if content != key:
        remove(path)
        raise ModelError(f"{path}: damaged, its SHA-256 is {content}; deleted, fetch it again")


def _read(path: Path) -> dict[str, Tensor]:
    try:
        metadata, tensors = read_tensors(path)
    except _DAMAGES as error:
        raise ModelError(f"{path}: not readable as a layer: {error}") from None
    if (written := metadata.get("format")) != FORMAT:
        raise ModelError(f"{path}: a layer's file of format {written}, this version's is {FORMAT}")
    return tensors


def _table(
    expected: Mapping[str, Tensor], scheme: Scheme, tied: Layer | None, path: Path
) -> dict[str, Tensor]:
    """The embedding's matrix under the head's names. Raises ModelError where there is none."""
    its = None if tied is None or tied.origin is None else tied.origin.scheme
    if not isinstance(tied, Embedding) or its != scheme.name:
        raise ModelError(
            f"{path}: has no matrix, but takes the embedding's; no embedding is here in "
            f"{scheme.name}"
        )
    parts = tied.tokens.state_dict()
    names = (name for name in expected if name.startswith(MATRIX))
    parts_of = {name: parts.get(name.rpartition(".")[2]) for name in names}
    return {name: part for name, part in parts_of.items() if part is not None}


def _alike(expected: Tensor, tensor: Tensor | None) -> bool:
    return tensor is not None and tensor.shape == expected.shape and tensor.dtype == expected.dtype
