"""ggml's own quantizers on single matrices, through its C library."""

import ctypes
import math
from concurrent.futures import ThreadPoolExecutor
from ctypes import POINTER, c_bool, c_char_p, c_float, c_int, c_int64, c_size_t, c_void_p
from pathlib import Path

import gguf
import numpy as np

ROWS_AT_ONCE = 256


class _Traits(ctypes.Structure):
    """The beginning of `struct ggml_type_traits` (ggml.h)."""

    _fields_ = (
        ("type_name", c_char_p),
        ("blck_size", c_int64),
        ("blck_size_interleave", c_int64),
        ("type_size", c_size_t),
        ("is_quantized", c_bool),
        ("to_float", ctypes.CFUNCTYPE(None, c_void_p, c_void_p, c_int64)),
    )


class Ggml:
    """Quantizers of the libggml-base in a folder."""

    def __init__(self, folder: Path) -> None:
        self._lib = ctypes.CDLL(str(folder / "libggml-base.so"))
        self._lib.ggml_get_type_traits.restype = POINTER(_Traits)
        self._lib.ggml_get_type_traits.argtypes = (c_int,)
        self._lib.ggml_quantize_init.argtypes = (c_int,)
        self._lib.ggml_quantize_chunk.restype = c_size_t
        self._lib.ggml_quantize_chunk.argtypes = (
            c_int, c_void_p, c_void_p, c_int64, c_int64, c_int64, POINTER(c_float),
        )  # fmt: skip

    def rounded(
        self, weight: np.ndarray, kind: str, importance: np.ndarray | None, threads: int
    ) -> tuple[np.ndarray, int]:
        """A float32 matrix [rows, columns] after a trip through a type such as "Q4_K", and the
        bytes it took there. `importance` float32 [columns].

        A row that is no multiple of the type's block cannot be quantized alone: as many rows as
        make one are taken as one long row, with the importance repeated (four rows of 576 for
        blocks of 256; the weights lie one behind the other in memory, so groups of 32 stay within
        their rows). Raises ValueError where the rows do not come out even.
        """
        number = int(gguf.GGMLQuantizationType[kind])
        traits = self._lib.ggml_get_type_traits(number).contents
        self._lib.ggml_quantize_init(number)
        together = traits.blck_size // math.gcd(weight.shape[1], traits.blck_size)
        if len(weight) % together:
            raise ValueError(f"{len(weight)} rows are no multiple of {together}")
        rows = np.ascontiguousarray(weight, np.float32).reshape(len(weight) // together, -1)
        weights = None if importance is None else np.tile(importance.astype(np.float32), together)
        out = np.empty_like(rows)
        row_bytes = rows.shape[1] // traits.blck_size * traits.type_size

        def work(start: int) -> int:
            part = rows[start : start + ROWS_AT_ONCE]
            codes = np.empty(len(part) * row_bytes, np.uint8)
            given = None if weights is None else weights.ctypes.data_as(POINTER(c_float))
            size = self._lib.ggml_quantize_chunk(
                number, part.ctypes.data, codes.ctypes.data, 0, *part.shape, given
            )
            traits.to_float(codes.ctypes.data, out[start:].ctypes.data, part.size)
            return int(size)

        with ThreadPoolExecutor(threads) as pool:
            size = sum(pool.map(work, range(0, len(rows), ROWS_AT_ONCE)))
        return out.reshape(weight.shape), size
