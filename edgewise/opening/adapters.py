"""Adapters that whoever opens a model gives by name."""

import re
from collections.abc import Iterable, Mapping
from pathlib import Path

from edgewise.adapters.served import Adapter, open_adapter
from edgewise.errors import InputError
from edgewise.models.checkpoint import Checkpoint

NAME = re.compile("[A-Za-z0-9][A-Za-z0-9._-]{0,63}")


def check_adapter_name(name: str) -> str:
    """The name itself. Raises InputError for what does not go well with others in a text."""
    if not NAME.fullmatch(name):
        raise InputError(
            f"{name[:80]!r} cannot be an adapter's name: letters, digits, '.', '_' and '-', at "
            "most 64"
        )
    return name


def open_adapters(folders: Mapping[str, str | Path], checkpoint: Checkpoint) -> dict[str, Adapter]:
    """Raises InputError for names and folders that will not do."""
    config, digest = checkpoint.config, checkpoint.spec.digest
    return {
        check_adapter_name(name): open_adapter(Path(folder), config, digest)
        for name, folder in folders.items()
    }


def room_of(adapters: Iterable[Adapter]) -> int:
    """Bytes that they need in a block."""
    return sum(adapter.block_bytes for adapter in adapters)
