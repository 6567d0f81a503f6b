"""Headers that are truncated, that lie or mean harm: an error that says so, at once, and no memory."""

import random
import resource
import struct
import time
from pathlib import Path

import pytest

from edgewise.errors import EdgewiseError, ModelError
from edgewise.models.checkpoint import open_checkpoint
from edgewise.models.gguf.header import read_header
from edgewise.models.shard import load_shard
from tests.models.gguf_files import small_model, write_gguf

STRING, ARRAY, U8, U32 = 8, 9, 0, 4


def text(value: str) -> bytes:
    return struct.pack("<Q", len(value)) + value.encode()


def start(tensors: int = 0, keys: int = 0, version: int = 3) -> bytes:
    return b"GGUF" + struct.pack("<IQQ", version, tensors, keys)


def entry(name: str, shape: tuple[int, ...], kind: int = 0, offset: int = 0) -> bytes:
    sizes = struct.pack(f"<I{len(shape)}Q", len(shape), *shape)
    return text(name) + sizes + struct.pack("<IQ", kind, offset)


LIES = {
    "nothing": (b"", "not readable as GGUF"),
    "another format": (b"PK\3\4" + bytes(100), "does not begin with 'GGUF'"),
    "cut in the counts": (start()[:20], "goes beyond the end"),
    "version 1": (start(version=1), "GGUF version 1 is not supported"),
    "big-endian": (start(version=3 << 24), "little-endian"),
    "many tensors": (start(tensors=2**62), "the number of tensors is 4611686018427387904"),
    "many keys": (start(keys=2**62), "the number of keys"),
    "a long key": (start(keys=1) + struct.pack("<Q", 2**63), "the length of a key"),
    "a key beyond the end": (start(keys=1) + struct.pack("<Q", 999), "a key goes beyond the end"),
    "no UTF-8": (start(keys=1) + struct.pack("<Q", 2) + b"\xff\xfe", "is not UTF-8"),
    "an unknown type": (start(keys=1) + text("k") + struct.pack("<I", 13), "unknown type 13"),
    "a long text": (
        start(keys=1) + text("k") + struct.pack("<IQ", STRING, 2**40),
        "the length of the value of 'k'",
    ),
    "a long array": (
        start(keys=1) + text("k") + struct.pack("<IIQ", ARRAY, U8, 2**60),
        "the number of items of 'k'",
    ),
    "an array beyond the end": (
        start(keys=1) + text("k") + struct.pack("<IIQ", ARRAY, U32, 2**20),
        "goes beyond the end",
    ),
    "texts beyond the end": (
        start(keys=1) + text("k") + struct.pack("<IIQ", ARRAY, STRING, 2**20) + text("a"),
        "goes beyond the end",
    ),
    "arrays in arrays": (
        start(keys=1) + text("k") + struct.pack("<IIQ", ARRAY, ARRAY, 1) + bytes(64),
        "an array of type 9",
    ),
    "a key twice": (
        start(keys=2) + 2 * (text("k") + struct.pack("<II", U32, 1)),
        "key 'k' is there twice",
    ),
    "no power of two": (
        start(keys=1) + text("general.alignment") + struct.pack("<II", U32, 3),
        "no power of two",
    ),
    "alignment 0": (
        start(keys=1) + text("general.alignment") + struct.pack("<II", U32, 0),
        "no power of two",
    ),
    "many dimensions": (start(tensors=1) + text("t") + struct.pack("<I", 2**31), "dimensions"),
    "no dimension": (start(tensors=1) + entry("t", ()), "has shape"),
    "an empty dimension": (start(tensors=1) + entry("t", (0, 4)), "has shape"),
    "a size beyond 64 bits": (
        start(tensors=1) + entry("t", (2**32, 2**32, 2**32)),
        "truncated or damaged",
    ),
    "half a block": (start(tensors=1) + entry("t", (33, 2), kind=2), "blocks of 32"),
    "an unknown tensor type": (start(tensors=1) + entry("t", (4,), kind=999), "unknown type 999"),
    "an offset beyond the end": (
        start(tensors=1) + entry("t", (4,), offset=2**63),
        "truncated or damaged",
    ),
    "a tensor twice": (start(tensors=2) + 2 * entry("t", (1,)) + bytes(64), "is there twice"),
    "tensors that overlap": (
        start(tensors=2) + entry("t", (4,)) + entry("u", (4,), offset=8) + bytes(99),
        "'t' and 'u' overlap",
    ),
}


@pytest.mark.parametrize("lie", LIES)
def test_a_header_that_cannot_be(lie: str, tmp_path: Path) -> None:
    content, message = LIES[lie]
    path = tmp_path / "m.gguf"
    path.write_bytes(content)
    with pytest.raises(ModelError, match=message):
        read_header(path)


@pytest.fixture(scope="module")
def good(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    folder = tmp_path_factory.mktemp("gguf")
    return write_gguf(folder / "m.gguf", small_model(num_hidden_layers=1)).read_bytes()


def test_a_file_cut_anywhere(good: bytes, tmp_path: Path) -> None:
    path, rng = tmp_path / "m.gguf", random.Random(0)
    for length in [*rng.sample(range(len(good) - 31), 150), len(good) - 32]:
        path.write_bytes(good[:length])
        with pytest.raises(ModelError):
            load_shard(path)


def test_damaged_headers_end_in_our_errors_or_load(good: bytes, tmp_path: Path) -> None:
    header = good.index(b"blk.0.ffn_down.weight") + 200
    path, rng = tmp_path / "m.gguf", random.Random(1)
    before, began = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, time.process_time()
    for _ in range(600):
        damaged = bytearray(good)
        for _ in range(rng.choice((1, 1, 2, 8))):
            at = rng.randrange(4, header)
            damaged[at] = rng.choice((0, 1, 0x7F, 0x80, 0xFF, rng.randrange(256)))
        if rng.random() < 0.3:  # whole counts, lengths and offsets
            at = rng.randrange(4, header - 8)
            damaged[at : at + 8] = struct.pack("<Q", rng.choice((2**64 - 1, 2**63, 2**40, 2**20)))
        path.write_bytes(damaged)
        try:
            open_checkpoint(path)
            load_shard(path, schemes="stored", context=8)
        except EdgewiseError:
            pass
    grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
    assert grown < 300 * 1024, f"{grown} KiB"
    assert time.process_time() - began < 60
