"""Files of tensors, read and written whole."""

from collections.abc import Mapping
from pathlib import Path

from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor


def read_tensors(path: Path) -> tuple[dict[str, str], dict[str, Tensor]]:
    """What a safetensors file says of itself, and its tensors by name. Raises OSError and
    SafetensorError."""
    with safe_open(path, framework="pt") as file:
        # What safetensors opens is no mapping: it has keys, but cannot be gone through.
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        return file.metadata() or {}, tensors


def write_tensors(path: Path, tensors: Mapping[str, Tensor], metadata: Mapping[str, str]) -> None:
    """Raises OSError."""
    try:
        save_file({name: x.contiguous() for name, x in tensors.items()}, path, dict(metadata))
    except SafetensorError as error:  # how the library reports a full disk
        raise OSError(str(error)) from None
