"""The C++ library through ctypes: its structs, its functions, and whether it is there."""

import ctypes
import hashlib
import itertools
import math
import os
from ctypes import POINTER, c_char_p, c_double, c_float, c_int, c_int32, c_int64, c_size_t, c_void_p
from functools import cache
from pathlib import Path

import torch

from edgewise.errors import EdgewiseError

VARIABLE = "EDGEWISE_KERNELS"
OFF = "off"
SCHEME_BITS = (2, 3, 4, 5, 6, 8)
PACKED, SPARSE = 4, 5  # with TYPES: the enum in src/matrix.h
TYPES = {torch.bfloat16: 0, torch.float32: 1, torch.int8: 2, torch.float16: 3}


class MatrixStruct(ctypes.Structure):
    _fields_ = (
        ("codes", c_void_p), ("scale", c_void_p), ("minimum", c_void_p),
        ("row_scale", c_void_p), ("row_minimum", c_void_p), ("bias", c_void_p), ("next", c_void_p),
        ("rows", c_int64), ("columns", c_int64),
        ("bits", c_int32), ("group", c_int32), ("type", c_int32), ("sides", c_int32),
    )  # fmt: skip


class NormStruct(ctypes.Structure):
    _fields_ = (("weight", c_void_p), ("bias", c_void_p), ("eps", c_float), ("centred", c_int32))


class CacheStruct(ctypes.Structure):
    _fields_ = (
        *[(name, c_void_p) for name in ("keys", "values", "key_scale", "value_scale")],
        ("context", c_int64), ("type", c_int32), ("slots", c_int32),
    )  # fmt: skip


class BlockStruct(ctypes.Structure):
    _fields_ = (
        *[(name, MatrixStruct) for name in ("qkv", "out", "up", "down")],
        *[(name, NormStruct) for name in ("attention_norm", "mlp_norm", "q_norm", "k_norm")],
        ("cache", CacheStruct),
        *[(name, c_int32) for name in ("hidden", "heads", "kv_heads", "head_dim")],
        *[(name, c_int32) for name in ("ffn", "gated", "activation", "window")],
    )


class LaneStruct(ctypes.Structure):
    _fields_ = (("slot", c_int32), ("start", c_int32), ("length", c_int32))


class LowRankStruct(ctypes.Structure):
    _fields_ = (
        ("down", c_void_p), ("up", c_void_p), ("next", c_void_p),
        ("first", c_int32), ("rows", c_int32), ("columns", c_int32), ("rank", c_int32),
    )  # fmt: skip


class AdapterStruct(ctypes.Structure):
    _fields_ = tuple((name, c_void_p) for name in ("qkv", "out", "up", "down"))


class StepStruct(ctypes.Structure):
    _fields_ = (
        ("x", c_void_p), ("cos", c_void_p), ("sin", c_void_p), ("lanes", POINTER(LaneStruct)),
        ("adapters", POINTER(c_void_p)),
        ("tokens", c_int32), ("num_lanes", c_int32), ("threads", c_int32),
    )  # fmt: skip


class RoundingStruct(ctypes.Structure):
    _fields_ = (
        *[(name, c_void_p) for name in ("weight", "by_column", "ranges", "codes", "scale")],
        *[(name, c_void_p) for name in ("minimum", "row_scale", "row_minimum")],
        *[(name, c_int64) for name in ("rows", "columns", "stride", "width")],
        *[(name, c_int32) for name in ("type", "bits", "group", "asymmetric", "doubled")],
        ("num_ranges", c_int32),
    )


STRUCTS = (
    MatrixStruct,
    NormStruct,
    CacheStruct,
    BlockStruct,
    LaneStruct,
    StepStruct,
    LowRankStruct,
    AdapterStruct,
    RoundingStruct,
)


@cache
def library() -> ctypes.CDLL | None:
    """The library, with its functions declared; None where it was not built or is switched off.
    Raises EdgewiseError where it was built from other sources, or the variable asks for an
    instruction set that is not there."""
    asked = os.environ.get(VARIABLE, "")
    built = sorted(Path(__file__).parent.glob("native*.so")) + sorted(
        Path(__file__).parent.glob("native*.pyd")
    )
    if asked == OFF or not built:
        return None
    try:
        lib = ctypes.CDLL(str(built[0]))
    except OSError:  # built for another machine
        return None
    _check_structs(lib, built[0])
    lib.edgewise_isa.restype = c_char_p
    lib.edgewise_use.argtypes = (c_char_p,)
    lib.edgewise_linear.argtypes = (POINTER(MatrixStruct), c_void_p, c_int, c_void_p, c_int)
    lib.edgewise_whole.argtypes = (POINTER(MatrixStruct), c_int, c_int, c_void_p, c_int)
    lib.edgewise_blocks.argtypes = (POINTER(POINTER(BlockStruct)), c_int, POINTER(StepStruct))
    lib.edgewise_round.argtypes = (POINTER(RoundingStruct), c_int)
    lib.edgewise_read.argtypes = (c_void_p, c_size_t, c_int)
    lib.edgewise_read.restype = c_double
    if asked and lib.edgewise_use(asked.encode()):
        raise EdgewiseError(
            f"{VARIABLE}={asked}: this machine has no such instruction set; use avx512-vnni, "
            f"avx-vnni, avx2, neon-i8mm, neon-dotprod, portable or {OFF}"
        )
    return lib


def _check_structs(lib: ctypes.CDLL, path: Path) -> None:
    """Raises EdgewiseError where the library was built from other sources than these structs."""
    expected = []
    for struct in STRUCTS:
        names = (field[0] for field in struct._fields_)
        expected += [ctypes.sizeof(struct), *(getattr(struct, name).offset for name in names)]
    layout = getattr(lib, "edgewise_abi", None)
    if layout is not None:
        layout.restype = POINTER(c_int64)
        built = list(itertools.takewhile(lambda x: x >= 0, layout()[: len(expected) + 1]))
    if layout is None or built != expected:
        raise EdgewiseError(
            f"{path} was built from other sources than this version's; build it again with "
            f"`make`, or set {VARIABLE}={OFF} to do without it"
        )


def available() -> bool:
    return library() is not None


def instruction_set() -> str | None:
    """What the kernels use; None where there are none."""
    lib = library()
    return None if lib is None else str(lib.edgewise_isa().decode())


def library_digest() -> str | None:
    """Identifies the kernels' code as it was built; None where there are none."""
    lib = library()
    return None if lib is None else hashlib.sha256(Path(lib._name).read_bytes()).hexdigest()[:16]


@cache
def most_tokens(dtype: torch.dtype | None) -> float:
    """Tokens up to which products with matrices of a type, None: packed, are quicker here than in
    torch, for which packed ones are made whole in bf16. Measured on two cores with AVX-512
    (benchmarks/prefill.py, dev/LOG.md); with AMX, torch's bf16 products are several times quicker
    than there. A rule and no timing: all workers must decide alike."""
    if dtype is None:
        return 32 if torch.cpu._is_amx_tile_supported() else math.inf
    return {torch.bfloat16: 16, torch.float32: 64, torch.float16: math.inf}.get(dtype, 0)


def use(name: str) -> bool:
    """Switch to the instruction set `name`. False where the machine has it not: for tests."""
    lib = library()
    return lib is not None and lib.edgewise_use(name.encode()) == 0


def checked(status: int) -> None:
    """Raises MemoryError, or ValueError where the library was handed what it does not know, or
    positions outside a cache: faults of the code that calls it."""
    if status == 1:
        raise MemoryError("no memory for the kernels' scratch space")
    if status:
        faults = {
            2: "a shape or type that they do not know",
            3: "what lies outside a cache or matrix",
            4: "two lanes of one slot",
        }
        raise ValueError(f"the kernels were handed {faults.get(status, f'fault {status}')}")


def read_seconds(address: int, size: int, threads: int) -> float:
    """Seconds that a plain loop takes to read `size` bytes from `address` on. Without the library:
    raises EdgewiseError."""
    lib = library()
    if lib is None:
        raise EdgewiseError("the C++ kernels were not built; a compiler (g++ or clang) is missing")
    return float(lib.edgewise_read(address, size, threads))
