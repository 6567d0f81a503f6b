"""Schemes: how a layer's weights are stored.

A scheme applies to every matrix of a layer. The remaining weights of the layer (norms, biases) are
few and stay in the scheme's `compute` type, in which the layer also multiplies.
"""

from dataclasses import dataclass

from edgewise.errors import SchemeError

DEFAULT = "fp32"


@dataclass(frozen=True, slots=True)
class Scheme:
    """`bits` per stored weight; `compute` names the torch floating-point type of the arithmetic."""

    name: str
    bits: int
    compute: str

    @property
    def compute_bytes(self) -> int:
        return {"float32": 4, "bfloat16": 2, "float16": 2}[self.compute]

    def matrix_bytes(self, rows: int, columns: int) -> int:
        """Bytes of one stored matrix."""
        return rows * columns * self.bits // 8


SCHEMES = {
    scheme.name: scheme
    for scheme in (
        Scheme("fp32", 32, "float32"),
        Scheme("bf16", 16, "bfloat16"),
        Scheme("fp16", 16, "float16"),
    )
}


def get_scheme(name: str) -> Scheme:
    """The scheme of that name. Raises SchemeError, which lists the known ones."""
    try:
        return SCHEMES[name]
    except KeyError:
        known = ", ".join(SCHEMES)
        raise SchemeError(f"unknown scheme '{name}'; known schemes: {known}") from None
