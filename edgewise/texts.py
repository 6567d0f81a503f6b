"""Text files that users name."""

from collections.abc import Iterator
from pathlib import Path

from edgewise.errors import InputError

MOST_BYTES = 512 * 2**20


def read_text(path: Path, most_bytes: int = MOST_BYTES) -> str:
    """A whole file. Raises InputError where it cannot be read, is too large, or no UTF-8 text."""
    try:
        if path.stat().st_size > most_bytes:
            raise InputError(f"{path}: larger than {most_bytes} bytes, refused; give a part of it")
        return path.read_text(encoding="utf-8")
    except OSError as error:
        raise InputError(f"cannot read {path}: {error.strerror}") from None
    except UnicodeDecodeError:
        raise InputError(f"{path}: not UTF-8 text") from None


def numbered_lines(text: str) -> Iterator[tuple[int, str]]:
    """Of JSON lines those that are not blank, the first is 1. `splitlines` would also end them at
    characters that JSON's texts may hold, such as U+2028."""
    for number, line in enumerate(text.split("\n"), start=1):
        if line.strip():
            yield number, line
