"""Quantized layers on disk, so that any later plan that wants the same layer in the same scheme
finds it there. A file's name is made of what its content depends on: the digests of the original
tensors, the scheme, the rounding method and the format.
"""

import hashlib
import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from edgewise.quantization.packed import PARTS, Packed
from edgewise.schemes import Scheme

FORMAT = 1
MOST_BYTES = 64 * 2**30


def cache_folder() -> Path:
    """Where Edgewise keeps what it can make again."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "edgewise"


@dataclass(frozen=True, slots=True)
class Store:
    """A folder of quantized layers; beyond `most_bytes` those not used for longest are deleted."""

    folder: Path
    most_bytes: int = MOST_BYTES

    @staticmethod
    def default() -> "Store":
        return Store(cache_folder() / "layers")

    def path(self, digests: Sequence[str], scheme: Scheme, method: str) -> Path:
        what = repr((FORMAT, tuple(digests), scheme.name, method))
        return self.folder / f"{hashlib.sha256(what.encode()).hexdigest()[:32]}.safetensors"

    def read(self, path: Path, scheme: Scheme) -> dict[str, Packed] | None:
        """The matrices of a layer, by name; None, and no file any more, where it is damaged."""
        if not path.is_file():
            return None
        try:
            with safe_open(path, framework="pt") as file:
                shapes = json.loads((file.metadata() or {})["shapes"])
                tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
            found = {name: _matrix(tensors, name, scheme, shape) for name, shape in shapes.items()}
        except (SafetensorError, OSError, KeyError, TypeError, ValueError, AttributeError):
            path.unlink(missing_ok=True)
            return None
        os.utime(path)
        return found

    def write(self, path: Path, matrices: Mapping[str, Packed]) -> None:
        """Keep a layer's matrices; nobody ever sees half a file."""
        self.folder.mkdir(parents=True, exist_ok=True)
        tensors: dict[str, Tensor] = {}
        for name, matrix in matrices.items():
            tensors |= {f"{name}.{part}": x for part, x in matrix.tensors.items()}
        shapes = json.dumps({name: list(matrix.shape) for name, matrix in matrices.items()})
        partial = path.with_suffix(f".{os.getpid()}")
        try:
            save_file(
                {name: x.cpu().contiguous() for name, x in tensors.items()},
                partial,
                metadata={"shapes": shapes},
            )
            partial.replace(path)
        finally:
            partial.unlink(missing_ok=True)
        self._make_room(path)

    def _make_room(self, new: Path) -> None:
        files = sorted(self.folder.glob("*.safetensors"), key=lambda x: x.stat().st_mtime)
        excess = sum(x.stat().st_size for x in files) - self.most_bytes
        for path in files:
            if excess <= 0:
                return
            if path != new:
                excess -= path.stat().st_size
                path.unlink(missing_ok=True)


def _matrix(tensors: Mapping[str, Tensor], name: str, scheme: Scheme, shape: list[int]) -> Packed:
    """Raises ValueError where the tensors are not what scheme and shape ask for."""
    rows, columns = shape
    parts = {part: tensors[f"{name}.{part}"] for part in PARTS if f"{name}.{part}" in tensors}
    found = Packed(scheme, (rows, columns), **parts)
    if found.nbytes != scheme.matrix_bytes(rows, columns):
        raise ValueError(f"{name} has {found.nbytes} bytes")
    return found
