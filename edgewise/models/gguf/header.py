"""The header of a GGUF file: what it says of the model, and where which tensor lies.

The `gguf` library's reader believes the file: a length of 2**60 makes it loop or allocate. Here
every count is held against what the file can contain before anything is read or made, so a damaged
or hostile header costs no more time and memory than its own bytes. The format is described in
https://github.com/ggml-org/ggml/blob/master/docs/gguf.md.
"""

import math
import mmap
import struct
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

from edgewise.errors import ModelError

MAGIC = b"GGUF"
VERSIONS = (2, 3)
MOST_TENSORS = 2**18
MOST_KEYS = 2**16
MOST_NAME_BYTES = 2**16  # the format's own limit for keys
MOST_ITEMS = 2**24  # of all arrays together: vocabularies have some hundred thousand
MOST_STRING_BYTES = 2**24
MOST_DIMENSIONS = 4
ALIGNMENT = 32

# Value types by number: what they are for the struct module. 8 is a string, 9 an array.
SCALARS = {
    0: "B",
    1: "b",
    2: "H",
    3: "h",
    4: "I",
    5: "i",
    6: "f",
    7: "?",
    10: "Q",
    11: "q",
    12: "d",
}
STRING, ARRAY = 8, 9

Value = int | float | bool | str | list[int | float | bool | str]


@dataclass(frozen=True, slots=True)
class TensorEntry:
    """`shape` with the fastest dimension last, as in torch; `kind` is ggml's name of the type, such
    as "Q4_K"; the `nbytes` bytes lie at `offset` in the file."""

    name: str
    shape: tuple[int, ...]
    kind: str
    offset: int
    nbytes: int


@dataclass(frozen=True, slots=True)
class Header:
    """`metadata` without what only tokenizers need: arrays of strings are left out."""

    metadata: Mapping[str, Value]
    tensors: Mapping[str, TensorEntry]


def read_header(path: Path) -> Header:
    """Raises ModelError where the file is none, truncated, or says what cannot be."""
    try:
        with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as whole:
            return _header(_Cursor(path, whole, len(whole)))
    except (OSError, ValueError) as error:  # mmap refuses empty files with a ValueError
        raise ModelError(f"{path}: not readable as GGUF: {error}") from None


@dataclass(slots=True)
class _Cursor:
    """Reads one value after the other, never beyond the end."""

    path: Path
    content: mmap.mmap
    size: int
    at: int = 0
    items: int = 0

    def fail(self, fault: str) -> ModelError:
        return ModelError(f"{self.path}: damaged GGUF file: {fault} (at byte {self.at})")

    def skip(self, count: int, part: str) -> int:
        """Move on by `count` bytes; returns where they begin."""
        start = self.at
        if not 0 <= count <= self.size - start:
            raise self.fail(f"{part} goes beyond the end; the file has {self.size} bytes")
        self.at = start + count
        return start

    def scalar(self, code: str, part: str) -> int | float | bool:
        layout = "<" + code
        start = self.skip(struct.calcsize(layout), part)
        number: int | float | bool = struct.unpack_from(layout, self.content, start)[0]
        return number

    def count(self, code: str, most: int, part: str) -> int:
        number = int(self.scalar(code, part))
        if number > most:
            raise self.fail(f"{part} is {number}, more than the {most} that are supported")
        return number

    def text(self, most: int, part: str) -> str:
        length = self.count("Q", most, f"the length of {part}")
        start = self.skip(length, part)
        try:
            return self.content[start : self.at].decode()
        except UnicodeDecodeError:
            raise self.fail(f"{part} is not UTF-8") from None


def _header(cursor: _Cursor) -> Header:
    magic = cursor.skip(4, "the magic number")
    if cursor.content[magic : magic + 4] != MAGIC:
        raise ModelError(f"{cursor.path}: not a GGUF file: it does not begin with 'GGUF'")
    version = int(cursor.scalar("I", "the version"))
    if version not in VERSIONS:
        raise ModelError(
            f"{cursor.path}: GGUF version {version} is not supported; supported: 2 and 3, in "
            "little-endian order"
        )
    tensors = cursor.count("Q", MOST_TENSORS, "the number of tensors")
    keys = cursor.count("Q", MOST_KEYS, "the number of keys")
    metadata: dict[str, Value] = {}
    for _ in range(keys):
        key = cursor.text(MOST_NAME_BYTES, "a key")
        if key in metadata:
            raise cursor.fail(f"key '{key}' is there twice")
        value = _value(cursor, int(cursor.scalar("I", f"the type of '{key}'")), key)
        if value is not None:
            metadata[key] = value
    entries = [_entry(cursor) for _ in range(tensors)]
    alignment = metadata.get("general.alignment", ALIGNMENT)
    if not isinstance(alignment, int) or alignment < 1 or alignment & (alignment - 1):
        raise cursor.fail(f"the alignment is {alignment}, no power of two")
    start = -(-cursor.at // alignment) * alignment
    return Header(metadata, _tensors(cursor, entries, start))


def _value(cursor: _Cursor, kind: int, key: str) -> Value | None:
    """A value; None for an array of strings, which is only checked."""
    part = f"the value of '{key}'"
    if kind in SCALARS:
        return cursor.scalar(SCALARS[kind], part)
    if kind == STRING:
        return cursor.text(MOST_STRING_BYTES, part)
    if kind != ARRAY:
        raise cursor.fail(f"{part} has the unknown type {kind}")
    inner = int(cursor.scalar("I", part))
    count = cursor.count("Q", MOST_ITEMS - cursor.items, f"the number of items of '{key}'")
    cursor.items += count
    if inner in SCALARS:
        layout = f"<{count}{SCALARS[inner]}"
        start = cursor.skip(struct.calcsize(layout), part)
        return list(struct.unpack_from(layout, cursor.content, start))
    if inner != STRING:
        raise cursor.fail(f"{part} is an array of type {inner}, which is not supported")
    _skip_strings(cursor, count, part)
    return None


def _skip_strings(cursor: _Cursor, count: int, part: str) -> None:
    # The one loop that a vocabulary makes long, so it does without the cursor's methods.
    content, at, size = cursor.content, cursor.at, cursor.size
    length_of = struct.Struct("<Q").unpack_from
    for _ in range(count):
        if at + 8 > size:
            raise cursor.fail(f"{part} goes beyond the end; the file has {size} bytes")
        at += 8 + length_of(content, at)[0]
    cursor.skip(at - cursor.at, part)


def _entry(cursor: _Cursor) -> tuple[str, tuple[int, ...], int, int]:
    """A tensor's name, shape, type and offset behind the header."""
    name = cursor.text(MOST_NAME_BYTES, "a tensor's name")
    count = cursor.count("I", MOST_DIMENSIONS, f"the number of dimensions of '{name}'")
    shape = tuple(int(cursor.scalar("Q", f"the shape of '{name}'")) for _ in range(count))
    kind = int(cursor.scalar("I", f"the type of '{name}'"))
    return name, shape[::-1], kind, int(cursor.scalar("Q", f"the offset of '{name}'"))


def _tensors(
    cursor: _Cursor, entries: list[tuple[str, tuple[int, ...], int, int]], start: int
) -> dict[str, TensorEntry]:
    # Imported late: it takes a quarter of a second, which those who only plan need not wait for.
    from gguf.constants import GGML_QUANT_SIZES, GGMLQuantizationType

    tensors: dict[str, TensorEntry] = {}
    for name, shape, number, offset in entries:
        if name in tensors:
            raise cursor.fail(f"tensor '{name}' is there twice")
        try:
            kind = GGMLQuantizationType(number)
        except ValueError:
            raise cursor.fail(f"tensor '{name}' has the unknown type {number}") from None
        block, block_bytes = GGML_QUANT_SIZES[kind]
        if not shape or min(shape) < 1 or shape[-1] % block:
            raise cursor.fail(
                f"tensor '{name}' of type {kind.name} has shape {list(shape)}; rows are made of "
                f"blocks of {block}"
            )
        nbytes = math.prod(shape) // block * block_bytes
        if start + offset + nbytes > cursor.size:
            raise ModelError(
                f"{cursor.path}: tensor '{name}' lies at bytes {start + offset} to "
                f"{start + offset + nbytes}, but the file has {cursor.size}; it is truncated or "
                "damaged: fetch it again"
            )
        tensors[name] = TensorEntry(name, shape, kind.name, start + offset, nbytes)
    return _apart(cursor, tensors)


def _apart(cursor: _Cursor, tensors: dict[str, TensorEntry]) -> dict[str, TensorEntry]:
    """The tensors, where no two overlap."""
    in_order = sorted(tensors.values(), key=lambda tensor: tensor.offset)
    for before, after in pairwise(in_order):
        if before.offset + before.nbytes > after.offset:
            raise cursor.fail(f"tensors '{before.name}' and '{after.name}' overlap")
    return tensors
