"""Products with packed matrices, and steps through whole blocks, in C++ (src/).

Optional: where the library was not built, `available()` is False and callers use torch. The
environment variable EDGEWISE_KERNELS names an instruction set to use instead of the best one
(avx512-vnni, avx2, neon-dotprod, portable), or is "off".
"""

from edgewise.kernels.library import (
    MOST_TOKENS,
    SCHEME_BITS,
    available,
    instruction_set,
    most_direct,
    read_seconds,
    use,
)
from edgewise.kernels.matrix import NativeMatrix, dequantize, linear

__all__ = [
    "MOST_TOKENS",
    "SCHEME_BITS",
    "NativeMatrix",
    "available",
    "dequantize",
    "instruction_set",
    "linear",
    "most_direct",
    "read_seconds",
    "use",
]
