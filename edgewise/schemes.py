"""Schemes: how a layer's weights are stored.

A scheme applies to every matrix of a layer, a recipe to all layers of a model. The remaining
weights of a layer (norms, biases) are few and stay in the scheme's `compute` type, in which the
layer also multiplies.

    fp32 bf16 fp16   floating point
    q4g64 q4g64a     4-bit codes of groups of 64 neighbours in a row, each with a scale; with an "a"
                     asymmetric: a scale and a minimum. 2, 3, 4, 5, 6, 8 bits, groups of 16 to 128
    q4g32d q4g32ad   the same, quantized doubly: scales and minima are 8-bit multiples of one scale
                     (and one minimum) per row, so smaller groups cost no more (K-quants' idea)
    q4g32ds          2:4 sparse: of every four neighbours in a row two are zero and not stored; two
                     codes of 4 bits, each with 2 bits that say which it is, so 3 bits a weight.
                     3, 4, 5, 6, 8 bits, groups of 32 and 64
    q4g32h q4g32ah   scales and minima in fp16, as GGUF files have them: kept, not quantized into
    stored           as the checkpoint has it, matrix by matrix: the type of a safetensors one, the
                     codes of a GGUF file. What that is, the model's specification says (specs.py)
    8bit ... 2bit    recipes: blocks in that many bits, embedding and head in what they need
    t8               8-bit truncation (DILEMMA, arXiv 2503.01704): one range for a whole matrix,
                     digits below the last bit cut off. 4, 6, ... 16 bits; meant for studies
"""

from dataclasses import dataclass
from enum import StrEnum
from itertools import product

from edgewise.errors import SchemeError

DEFAULT = "fp32"
# What plans choose among where quality matters: one for each width. No sparse ones: on a real model
# two zeros of four cost more than a bit does (docs/studies/luc.md). q8g32ds takes more bytes and
# time than q4g32d, and loses more; those of fewer bits are for whoever names them.
CANDIDATES = ("q2g16ad", "q3g32ad", "q4g32ad", "q5g32ad", "q6g32d", "q8g32d", "bf16")
STORED = "stored"
BITS = (2, 3, 4, 5, 6, 8)
GROUPS = (16, 32, 64, 128)
FILE_GROUPS = (16, 32)  # of GGUF files
SPARSE_BITS, SPARSE_GROUPS = (3, 4, 5, 6, 8), (32, 64)
INDEX_BITS = 2  # of a kept code: which of its four neighbours it is
TRUNCATED_BITS = (4, 6, 8, 10, 12, 14, 16)
SIDE_BYTES = 2  # of a group's scale, and of its minimum: bf16
DOUBLE_SIDE_BYTES = 1  # the same where quantized doubly: int8, times the row's bf16
CACHE_SCALE_BYTES = 4  # of one head's keys, or values, of a token: fp32
WIRE_GROUP = 32  # of hidden states that share a scale on a link: bf16
RANGE_BYTES = 4  # of a truncated matrix's range: fp32
TILE_ROWS, TILE_COLUMNS = 16, 32  # codes are stored in whole tiles


class CacheType(StrEnum):
    """How keys and values are kept: in the type that their block computes in, or in 8 bits, each
    head's vector with a scale."""

    FULL = "full"
    INT8 = "int8"


class Wire(StrEnum):
    """What hidden states cross links in: as they are, rounded to bf16, or in 8 bits, groups of
    neighbours with a scale. One scale for all of a token's would lose ten times as much: few of
    them are a thousand times as large as the rest."""

    FP32 = "fp32"
    BF16 = "bf16"
    INT8 = "int8"

    def row_bytes(self, hidden_size: int) -> int:
        """Bytes of one token's hidden states."""
        if self is Wire.INT8:
            return hidden_size + -(-hidden_size // WIRE_GROUP) * SIDE_BYTES
        return hidden_size * (2 if self is Wire.BF16 else 4)


class Family(StrEnum):
    """What the stored numbers are."""

    FLOAT = "float"
    GROUPED = "grouped"
    TRUNCATED = "truncated"
    STORED = "stored"
    RECIPE = "recipe"


@dataclass(frozen=True, slots=True)
class Scheme:
    """`bits` per stored code; `compute` names the torch floating-point type of the arithmetic;
    `group` neighbours in a row share a scale, and if `asymmetric` a minimum, which if `double` are
    8-bit multiples of the row's. Where `sparse`, of every four neighbours two are kept."""

    name: str
    bits: int
    compute: str
    family: Family = Family.FLOAT
    group: int = 0
    asymmetric: bool = False
    double: bool = False
    half: bool = False  # scales and minima in fp16
    sparse: bool = False
    blocks: str = ""  # of a recipe: what blocks are stored in,
    ends: str = ""  # and what embedding and head are

    @property
    def compute_bytes(self) -> int:
        return {"float32": 4, "bfloat16": 2, "float16": 2}[self.compute]

    @property
    def tile_columns(self) -> int:
        """Of a tile of codes: as many as take 32 codes of a row."""
        return 2 * TILE_COLUMNS if self.sparse else TILE_COLUMNS

    @property
    def tile_lines(self) -> int:
        """Vectors of 64 bytes that a tile takes."""
        return self.bits + INDEX_BITS if self.sparse else self.bits

    @property
    def weight_bits(self) -> float:
        """Bits that a weight takes, scales aside."""
        return self.tile_lines * TILE_COLUMNS / self.tile_columns

    @property
    def dense(self) -> "Scheme":
        """The same with all codes kept."""
        return SCHEMES[self.name.removesuffix("s")] if self.sparse else self

    def width(self, columns: int) -> int:
        """Columns of a packed row: filled up to whole groups and tiles."""
        step = max(self.group, self.tile_columns)
        return -(-columns // step) * step

    def groups(self, columns: int) -> int:
        """Groups of a packed row."""
        return self.width(columns) // self.group

    def matrix_bytes(self, rows: int, columns: int) -> int:
        """Bytes of one stored matrix, scales and unfinished tiles included."""
        if self.family in (Family.STORED, Family.RECIPE):
            raise ValueError(f"what {self.name} takes is the layer's to say (LayerSpec)")
        if self.family is Family.FLOAT:
            return rows * columns * self.bits // 8
        rows = -(-rows // TILE_ROWS) * TILE_ROWS
        codes = self.width(columns) // self.tile_columns * self.tile_lines * 64 // TILE_ROWS
        if self.family is Family.TRUNCATED:
            return rows * codes + RANGE_BYTES
        per_group, per_row = (DOUBLE_SIDE_BYTES, SIDE_BYTES) if self.double else (SIDE_BYTES, 0)
        sides = 2 if self.asymmetric else 1
        return rows * (codes + sides * (self.groups(columns) * per_group + per_row))


def _grouped(bits: int, group: int, asymmetric: bool, sides: str) -> Scheme:
    name, double, half = f"q{bits}g{group}{'a' * asymmetric}{sides}", "d" in sides, sides == "h"
    sparse = "s" in sides
    return Scheme(name, bits, "bfloat16", Family.GROUPED, group, asymmetric, double, half, sparse)


# By the loss that they cost the real model (docs/quality): (blocks, embedding and head).
RECIPES = {
    "8bit": ("q8g32", "q8g32"),
    "6bit": ("q6g16d", "q8g32d"),
    "5bit": ("q5g32ad", "q6g16d"),
    "4bit": ("q4g32ad", "q6g16d"),
    "3bit": ("q3g32ad", "q4g32ad"),
    "2bit": ("q2g32ad", "q3g32ad"),
}


def _recipe(name: str, parts: tuple[str, str]) -> Scheme:
    return Scheme(name, int(name[0]), "bfloat16", Family.RECIPE, blocks=parts[0], ends=parts[1])


SCHEMES = {
    scheme.name: scheme
    for scheme in (
        Scheme("fp32", 32, "float32"),
        Scheme("bf16", 16, "bfloat16"),
        Scheme("fp16", 16, "float16"),
        *(_grouped(*x) for x in product(BITS, GROUPS, (False, True), ("", "d"))),
        *(_grouped(*x, "h") for x in product(BITS, FILE_GROUPS, (False, True))),
        *(_grouped(*x, False, "ds") for x in product(SPARSE_BITS, SPARSE_GROUPS)),
        Scheme(STORED, 16, "bfloat16", Family.STORED),
        *(_recipe(*x) for x in RECIPES.items()),
        *(Scheme(f"t{b}", b, "bfloat16", Family.TRUNCATED) for b in TRUNCATED_BITS),
    )
}

KNOWN = (
    "fp32, bf16, fp16, q4g64 (2, 3, 4, 5, 6 or 8 bits, groups of 16, 32, 64 or 128; q4g64a is "
    "asymmetric, q4g32d has its scales quantized too, q4g32ds keeps two of every four weights), "
    "4bit (a recipe; 2, 3, 5, 6, 8 too), "
    "stored (as the checkpoint has it), t8 (truncated: 4, 6, ... 16 bits)"
)


def get_scheme(name: str) -> Scheme:
    """The scheme of that name. Raises SchemeError, which says what there is."""
    try:
        return SCHEMES[name]
    except KeyError:
        raise SchemeError(f"unknown scheme '{name}'; known schemes: {KNOWN}") from None
