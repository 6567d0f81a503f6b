"""Folders of new checkpoints, which appear whole or not at all."""

import contextlib
import json
import os
import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path
from tempfile import mkdtemp
from typing import Any

from edgewise.errors import DiskError, InputError


def check_vacant(folder: Path) -> None:
    """Raise InputError where something is there already."""
    if folder.exists() and not (folder.is_dir() and not any(folder.iterdir())):
        raise InputError(f"{folder}: is there already; name a folder that is not, or is empty")


@contextlib.contextmanager
def new_folder(folder: Path) -> Iterator[Path]:
    """A folder beside it to write to, which takes its place at the end, and is gone after any
    error. Raises InputError, and DiskError where it cannot be written."""
    check_vacant(folder)
    partial: Path | None = None
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        partial = Path(mkdtemp(prefix=f".{folder.name}.", dir=folder.parent))
        yield partial
        partial.chmod(0o755)
        if folder.is_dir():
            folder.rmdir()
        os.replace(partial, folder)
    except OSError as error:
        why = error.strerror or error
        raise DiskError(f"{folder}: cannot be written, and is not there: {why}") from None
    finally:
        if partial is not None:
            shutil.rmtree(partial, ignore_errors=True)


def write_json(path: Path, document: Mapping[str, Any]) -> None:
    path.write_text(json.dumps(document, indent=2) + "\n", encoding="utf-8")
