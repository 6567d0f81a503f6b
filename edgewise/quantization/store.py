"""Quantized layers on disk, so that any later plan that wants the same layer in the same scheme
finds it there. A file's name is made of what its content depends on: the digests of the original
tensors, the scheme, the rounding method with what it was calibrated on, and the format.
"""

import contextlib
import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from safetensors import SafetensorError
from torch import Tensor

from edgewise.caches import cache_folder, cache_key, is_cached, make_room, remove, write_atomically
from edgewise.quantization.packed import PARTS, Packed
from edgewise.schemes import Scheme
from edgewise.tensor_files import read_tensors, write_tensors

FORMAT = 6  # of the file, and of how methods round
MOST_BYTES = 64 * 2**30


@dataclass(frozen=True, slots=True)
class Store:
    """A folder of quantized layers; beyond `most_bytes` those not used for longest are deleted."""

    folder: Path
    most_bytes: int = MOST_BYTES

    @staticmethod
    def default() -> "Store | None":
        """The user's; None for one without a home."""
        folder = cache_folder("layers")
        return None if folder is None else Store(folder)

    def path(self, digests: Sequence[str], scheme: Scheme, method: str) -> Path:
        """`method` says all that the codes depend on besides weights and scheme (rounding/)."""
        name = cache_key(FORMAT, tuple(digests), scheme.name, method)
        return self.folder / f"{name}.safetensors"

    def read(self, path: Path, scheme: Scheme) -> dict[str, Packed] | None:
        """The matrices of a layer, by name; None, and no file any more, where it is damaged."""
        if not is_cached(path):
            return None
        try:
            metadata, tensors = read_tensors(path)
            shapes = json.loads(metadata["shapes"])
            layer = {name: _matrix(tensors, name, scheme, shape) for name, shape in shapes.items()}
        except (SafetensorError, OSError, KeyError, TypeError, ValueError, AttributeError):
            remove(path)
            return None
        with contextlib.suppress(OSError):  # others' files, and those being deleted now
            os.utime(path)
        return layer

    def write(self, path: Path, matrices: Mapping[str, Packed]) -> bool:
        """Keep a layer's matrices; nobody ever sees half a file. False where they cannot be."""
        tensors: dict[str, Tensor] = {}
        for name, matrix in matrices.items():
            tensors |= {f"{name}.{part}": tensor for part, tensor in matrix.tensors.items()}
        tensors = {name: tensor.cpu() for name, tensor in tensors.items()}
        shapes = json.dumps({name: list(matrix.shape) for name, matrix in matrices.items()})
        kept = write_atomically(
            path, lambda partial: write_tensors(partial, tensors, {"shapes": shapes})
        )
        if kept:
            make_room(self.folder.glob("*.safetensors"), self.most_bytes, {path})
        return kept


def _matrix(tensors: Mapping[str, Tensor], name: str, scheme: Scheme, shape: list[int]) -> Packed:
    """Raises ValueError where the tensors are not what scheme and shape ask for."""
    rows, columns = shape
    parts = {part: tensors[f"{name}.{part}"] for part in PARTS if f"{name}.{part}" in tensors}
    matrix = Packed(scheme, (rows, columns), **parts)
    if matrix.nbytes != scheme.matrix_bytes(rows, columns):
        raise ValueError(f"{name} has {matrix.nbytes} bytes")
    return matrix
