"""Blocks whose matrices live on disk: ordinary ones whose tensors are views of a stream's buffers.

Their files are those that are sent to devices (layer_files.py); each is checked against its name,
the SHA-256 of its content, once. Norms and biases, which kernels keep as they like, stay in memory.
"""

import contextlib
import hashlib
import mmap
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path

import msgspec
import torch
from torch import Tensor

from edgewise.caches import remove
from edgewise.errors import ModelError
from edgewise.models.blank import blank_layer
from edgewise.models.decoder import Layer
from edgewise.models.direct_reads import DirectFile
from edgewise.models.layer_files import FORMAT, LayerFile, check_parts, layer_path
from edgewise.models.layer_stream import LayerStream
from edgewise.models.names import MATRICES
from edgewise.models.shape import ModelShape
from edgewise.schemes import get_scheme
from edgewise.specs import LayerKind

TYPES = {
    "F32": torch.float32,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
    "I8": torch.int8,
    "U8": torch.uint8,
}


class _Place(msgspec.Struct):
    """A tensor, as a safetensors header says: offsets count from the header's end."""

    dtype: str
    shape: tuple[int, ...]
    data_offsets: tuple[int, int]


class StreamedLayers:
    """By their numbers in the model. They hold their weights only while they are `there`."""

    def __init__(self, layers: Mapping[int, Layer], stream: LayerStream) -> None:
        self.layers, self.stream = layers, stream
        self._places = {number: place for place, number in enumerate(layers)}
        views = [torch.frombuffer(memory, dtype=torch.uint8) for memory in stream.buffers]
        self._addresses = [range(x.data_ptr(), x.data_ptr() + x.nbytes) for x in views]

    def there(self, number: int) -> contextlib.AbstractContextManager[None]:
        """While a layer computes; any other layer's weights are there anyway. Raises DiskError."""
        place = self._places.get(number)
        return contextlib.nullcontext() if place is None else self.stream.there(place)

    def holds(self, tensor: Tensor) -> bool:
        """Whether a tensor lies in a buffer."""
        return any(tensor.data_ptr() in addresses for addresses in self._addresses)


def streamed_layers(
    shape: ModelShape,
    schemes: Mapping[int, str],
    files: Sequence[LayerFile],
    folder: Path,
    bytes_per_second: float,
    on_layer: Callable[[int], None] = lambda layer: None,
) -> StreamedLayers:
    """The layers in `schemes`, by number, from files of a folder. Raises ModelError, as
    `layers_from_files` does, and DiskError."""
    keys, numbers = {file.layer: file.key for file in files}, sorted(schemes)
    paths = [layer_path(folder, keys[number]) for number in numbers]
    with contextlib.ExitStack() as opened:
        direct = [opened.enter_context(contextlib.closing(DirectFile(path))) for path in paths]
        stream, layers = LayerStream(direct, bytes_per_second), dict[int, Layer]()
        for place, number in enumerate(numbers):
            stream.read_now(place)
            memory, file = stream.buffer(place), direct[place]
            _check_content(memory, file, keys[number])
            layers[number] = _layer(shape, number, schemes[number], memory, file)
            on_layer(number)
        opened.pop_all()
    return StreamedLayers(layers, stream)


def _check_content(memory: mmap.mmap, file: DirectFile, key: str) -> None:
    with memoryview(memory) as content:
        found = hashlib.sha256(content[: file.size]).hexdigest()
    if found != key:
        remove(file.path)
        raise ModelError(f"{file.path}: damaged, its SHA-256 is {found}; deleted, load it again")


def _layer(shape: ModelShape, number: int, name: str, memory: mmap.mmap, file: DirectFile) -> Layer:
    scheme = get_scheme(name)
    layer = blank_layer(shape.config, number, scheme, shape.spec.layers[number])
    tensors = dict(_tensors(memory, file))
    check_parts(layer.state_dict(), tensors, file.path, f"{number} of {shape.name} in {name}")
    own = {part: x if _is_streamed(layer.kind, part) else x.clone() for part, x in tensors.items()}
    layer.load_state_dict(own, assign=True)
    return layer.requires_grad_(False)


def _is_streamed(kind: LayerKind, part: str) -> bool:
    first, _, rest = part.partition(".")
    return first in MATRICES[kind] and rest != "bias"


def _tensors(memory: mmap.mmap, file: DirectFile) -> Iterator[tuple[str, Tensor]]:
    """What lies in a buffer, by name. Raises ModelError where that is no safetensors file."""
    try:
        length = int.from_bytes(memory[:8], "little")
        start = 8 + length
        header = msgspec.json.decode(memory[8:start], type=dict[str, msgspec.Raw])
        metadata = msgspec.json.decode(header.pop("__metadata__"), type=dict[str, str])
        if metadata.get("format") != FORMAT:
            raise ValueError(f"a layer's file of format {metadata.get('format')}, not {FORMAT}")
        for name, raw in header.items():
            place = msgspec.json.decode(raw, type=_Place)
            dtype, (first, end) = TYPES[place.dtype], place.data_offsets
            if not 0 <= first < end <= file.size - start:
                raise ValueError(f"tensor '{name}' lies outside of it")
            count = (end - first) // dtype.itemsize
            flat = torch.frombuffer(memory, dtype=dtype, count=count, offset=start + first)
            yield name, flat.view(place.shape)
    except (ValueError, KeyError, RuntimeError, msgspec.MsgspecError) as error:
        raise ModelError(f"{file.path}: not readable as a layer: {error}") from None
