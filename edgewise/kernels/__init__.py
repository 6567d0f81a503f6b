"""Products with packed matrices, and steps through whole blocks, in C++ (src/).

Optional: where the library was not built, `available()` is False and callers use torch. The
environment variable EDGEWISE_KERNELS names an instruction set to use instead of the best one
(avx512-vnni, avx-vnni, avx2, neon-i8mm, neon-dotprod, portable), or is "off".
"""

from edgewise.kernels.adapter import MOST_RANK, Addition, NativeAdapter
from edgewise.kernels.backend import BACKENDS, Backend, backend_of
from edgewise.kernels.library import (
    SCHEME_BITS,
    TYPES,
    available,
    instruction_set,
    library_digest,
    most_tokens,
    read_seconds,
    use,
)
from edgewise.kernels.matrix import NativeMatrix, dequantize, linear

__all__ = [
    "BACKENDS",
    "MOST_RANK",
    "SCHEME_BITS",
    "TYPES",
    "Addition",
    "Backend",
    "NativeAdapter",
    "NativeMatrix",
    "available",
    "backend_of",
    "dequantize",
    "instruction_set",
    "library_digest",
    "linear",
    "most_tokens",
    "read_seconds",
    "use",
]
