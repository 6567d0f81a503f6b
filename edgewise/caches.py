"""What Edgewise keeps because it can make it again: where, under which names, how it is written.

A cache is optional. Where there is no place for one, or it cannot be written, everything works as
without it, only slower.
"""

import contextlib
import hashlib
import os
from collections.abc import Callable, Container, Iterable
from pathlib import Path
from typing import TypeVar
from uuid import uuid4

from edgewise.errors import ProfileError

APPLICATION = "edgewise"

T = TypeVar("T")


def cache_folder(kind: str) -> Path | None:
    """The folder of one kind of thing, which may not exist yet: below $XDG_CACHE_HOME, else
    ~/.cache. None for a user without a home."""
    base = os.environ.get("XDG_CACHE_HOME", "")
    if not os.path.isabs(base):  # the XDG specification: a relative path is to be ignored
        base = os.path.join(os.path.expanduser("~"), ".cache")
    return Path(base) / APPLICATION / kind if os.path.isabs(base) else None


def cache_key(*parts: object) -> str:
    """A file name, without its ending, made of everything that the content depends on. The parts'
    `repr` must say all of it: strings, numbers, tuples, frozen dataclasses."""
    return hashlib.sha256(repr(parts).encode("utf-8", "surrogatepass")).hexdigest()[:32]


def is_cached(path: Path | None) -> bool:
    """Whether there is such a file, and a way to it."""
    try:
        return path is not None and path.is_file()
    except OSError:  # a folder on the way cannot be looked into
        return False


def read_cached(path: Path | None, read: Callable[[Path], T]) -> T | None:
    """What a file keeps; None where there is none. One written by half, or by hand (ProfileError),
    is removed."""
    if path is None or not is_cached(path):
        return None
    try:
        return read(path)
    except ProfileError:
        remove(path)
        return None


def write_atomically(path: Path, write: Callable[[Path], object]) -> bool:
    """Let `write` make a file that appears at `path` whole or not at all. False, and no trace,
    where that raises OSError."""
    partial = path.with_name(f"{path.name}.{uuid4().hex}.part")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write(partial)
        partial.replace(path)
    except OSError:
        return False
    finally:
        remove(partial)
    return True


def write_text_atomically(path: Path | None, text: str) -> Path | None:
    """Keep a text, and return where; None where it could not be kept."""
    if path is None:
        return None
    kept = write_atomically(path, lambda partial: partial.write_text(text, encoding="utf-8"))
    return path if kept else None


def make_room(files: Iterable[Path], most_bytes: int, keep: Container[Path]) -> None:
    """Of these files delete those not used for longest, until the rest takes at most so many
    bytes. Those to `keep` stay."""
    known = []
    for path in files:
        with contextlib.suppress(OSError):  # another process made room at the same time
            stat = path.stat()
            known.append((stat.st_mtime, stat.st_size, path))
    excess = sum(size for _, size, _ in known) - most_bytes
    for _, size, path in sorted(known):
        if excess <= 0:
            return
        if path not in keep:
            excess -= size
            remove(path)


def remove(path: Path) -> None:
    """Remove a file that is there no more, or may not be removed, without a word."""
    with contextlib.suppress(OSError):
        path.unlink()
