"""ggml's blocks of numbers, decoded: codes, scales and minima, which become our packed matrices.

A row is a sequence of blocks of 32 numbers, or of 256 for the K-types, each laid out as ggml's
`block_*` structs (ggml-common.h; in Python the `gguf` library's quants.py). Values are `code *
scale`, codes counted from the middle, or `code * scale + minimum`. Codes carry over exactly. Scales
and minima, fp16 in the file or products of an fp16 and a small integer, are rounded once, to fp16:
by at most 2**-11 of themselves, or 2**-25 where they are below 2**-14. Those of MXFP4, powers of
two, are kept in bf16.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from edgewise.errors import ModelError
from edgewise.quantization.pack import pack
from edgewise.quantization.packed import Packed, by_block, offset, side_type
from edgewise.schemes import SCHEMES, TILE_ROWS, Scheme

K = 256


@dataclass(frozen=True, slots=True)
class Decoded:
    """Blocks [n] of a type: codes uint8 [n, size], counted from zero; scales and maybe minima
    float32 [n, size / group]."""

    codes: Tensor
    scale: Tensor
    minimum: Tensor | None = None


def _fields(blocks: Tensor, *sizes: int) -> list[Tensor]:
    """The columns of blocks uint8 [n, bytes], split into fields of these sizes."""
    return [field.contiguous() for field in blocks.split(sizes, dim=1)]


def _half(field: Tensor) -> Tensor:
    """fp16 [n, 2 bytes] as float32 [n, 1]."""
    return field.view(torch.float16).float()


def _apart(field: Tensor, width: int, run: int) -> Tensor:
    """Codes of `width` bits [n, codes] from bytes [n, bytes] in runs: the lowest bits of all bytes
    of a run come first, then the next ones."""
    shifts = torch.arange(0, 8, width, dtype=torch.uint8).view(1, 1, -1, 1)
    parts = field.view(len(field), -1, 1, run) >> shifts
    return (parts & ((1 << width) - 1)).flatten(1)


def _fifth_bits(field: Tensor) -> Tensor:
    """One bit per number [n, 32], the lowest bit of the first byte first."""
    shifts = torch.arange(8, dtype=torch.uint8)
    return ((field.unsqueeze(-1) >> shifts) & 1).flatten(1)


def _q8_0(blocks: Tensor) -> Decoded:
    d, q = _fields(blocks, 2, 32)
    return Decoded(q ^ 0x80, _half(d))  # two's complement, counted from -128


def _q4_0(blocks: Tensor) -> Decoded:
    d, q = _fields(blocks, 2, 16)
    return Decoded(_apart(q, 4, 16), _half(d))


def _q4_1(blocks: Tensor) -> Decoded:
    d, m, q = _fields(blocks, 2, 2, 16)
    return Decoded(_apart(q, 4, 16), _half(d), _half(m))


def _q5_0(blocks: Tensor) -> Decoded:
    d, high, q = _fields(blocks, 2, 4, 16)
    return Decoded(_apart(q, 4, 16) | (_fifth_bits(high) << 4), _half(d))


def _q5_1(blocks: Tensor) -> Decoded:
    d, m, high, q = _fields(blocks, 2, 2, 4, 16)
    return Decoded(_apart(q, 4, 16) | (_fifth_bits(high) << 4), _half(d), _half(m))


def _k_sides(d: Tensor, least: Tensor, sides: Tensor) -> tuple[Tensor, Tensor]:
    """Scales and minima [n, 8] of Q4_K and Q5_K: 6-bit multiples of d and -least. Of the 12 bytes
    four hold scales, four minima, and their upper two bits belong, like the last four bytes, to the
    other four of each."""
    low, middle, high = sides.view(-1, 3, 4).unbind(1)
    scale = torch.cat((low & 0x3F, (high & 0x0F) | ((low >> 2) & 0x30)), dim=1)
    minimum = torch.cat((middle & 0x3F, (high >> 4) | ((middle >> 2) & 0x30)), dim=1)
    return _half(d) * scale, -(_half(least) * minimum)


def _q4_k(blocks: Tensor) -> Decoded:
    d, least, sides, q = _fields(blocks, 2, 2, 12, K // 2)
    return Decoded(_apart(q, 4, 32), *_k_sides(d, least, sides))


def _q5_k(blocks: Tensor) -> Decoded:
    d, least, sides, high, q = _fields(blocks, 2, 2, 12, K // 8, K // 2)
    return Decoded(_apart(q, 4, 32) | (_apart(high, 1, 32) << 4), *_k_sides(d, least, sides))


def _q6_k(blocks: Tensor) -> Decoded:
    low, high, sides, d = _fields(blocks, K // 2, K // 4, K // 16, 2)
    codes = _apart(low, 4, 64) | (_apart(high, 2, 32) << 4)
    return Decoded(codes, _half(d) * sides.view(torch.int8))


def _q3_k(blocks: Tensor) -> Decoded:
    high, low, sides, d = _fields(blocks, K // 8, K // 4, 12, 2)
    nibbles, pairs = _fields(sides, 8, 4)
    scale = _apart(nibbles, 4, 8) | (_apart(pairs, 2, 4) << 4)  # counted from -32
    codes = _apart(low, 2, 32) | (_apart(high, 1, 32) << 2)
    return Decoded(codes, _half(d) * (scale.float() - 32))


def _q2_k(blocks: Tensor) -> Decoded:
    sides, q, d, least = _fields(blocks, K // 16, K // 4, 2, 2)
    return Decoded(_apart(q, 2, 32), _half(d) * (sides & 0x0F), -(_half(least) * (sides >> 4)))


# Twice the values of MXFP4's codes, counted from -16 as q5 does (OCP Microscaling Formats 1.0).
_TWICE_E2M1 = [16 + sign * x for sign in (1, -1) for x in (0, 1, 2, 3, 4, 6, 8, 12)]


def _mxfp4(blocks: Tensor) -> Decoded:
    exponent, q = _fields(blocks, 1, 16)
    codes = torch.tensor(_TWICE_E2M1, dtype=torch.uint8)[_apart(q, 4, 16).long()]
    # Half of 2**(e - 127), by its bits: the two smallest have no exponent left. All fit bf16.
    e = exponent.int()
    return Decoded(codes, torch.where(e < 2, 0x00200000 << e, (e - 1) << 23).view(torch.float32))


@dataclass(frozen=True, slots=True)
class BlockType:
    """A type of block: the scheme whose codes it has, and how to get at them."""

    scheme: Scheme
    size: int
    decode: Callable[[Tensor], Decoded]


BLOCK_TYPES = {
    name: BlockType(SCHEMES[scheme], size, decode)
    for name, scheme, size, decode in (
        ("Q8_0", "q8g32h", 32, _q8_0),
        ("Q4_0", "q4g32h", 32, _q4_0),
        ("Q4_1", "q4g32ah", 32, _q4_1),
        ("Q5_0", "q5g32h", 32, _q5_0),
        ("Q5_1", "q5g32ah", 32, _q5_1),
        ("Q4_K", "q4g32ah", K, _q4_k),
        ("Q5_K", "q5g32ah", K, _q5_k),
        ("Q6_K", "q6g16h", K, _q6_k),
        ("Q3_K", "q3g16h", K, _q3_k),
        ("Q2_K", "q2g16ah", K, _q2_k),
        ("MXFP4", "q5g32", 32, _mxfp4),
    )
}


def decoded(kind: str, raw: Tensor) -> Decoded:
    """Rows uint8 [R, bytes] of blocks of a type -> codes [R, columns] and sides [R, groups]. Raises
    ModelError where scales or minima are not finite."""
    rows, block = len(raw), BLOCK_TYPES[kind]
    blocks = block.decode(raw.reshape(rows * (raw.shape[1] // _bytes(kind)), -1))
    sides = [None if x is None else x.view(rows, -1) for x in (blocks.scale, blocks.minimum)]
    if not all(x is None or x.isfinite().all() for x in sides):
        raise ModelError("scales or minima are not finite; the file is damaged")
    assert sides[0] is not None
    return Decoded(blocks.codes.view(rows, -1), sides[0], sides[1])


def _bytes(kind: str) -> int:
    from gguf.constants import GGML_QUANT_SIZES, GGMLQuantizationType

    return GGML_QUANT_SIZES[GGMLQuantizationType[kind]][1]


def values(kind: str, raw: Tensor) -> Tensor:
    """Rows uint8 [R, bytes] as the float32 numbers [R, columns] that the file means."""
    blocks, scheme = decoded(kind, raw), BLOCK_TYPES[kind].scheme
    codes = blocks.codes.float().view(*blocks.scale.shape, scheme.group)
    if blocks.minimum is None:
        return ((codes - offset(scheme)) * blocks.scale.unsqueeze(-1)).flatten(1)
    return (codes * blocks.scale.unsqueeze(-1) + blocks.minimum.unsqueeze(-1)).flatten(1)


def repacked(kind: str, raw: Tensor) -> Packed:
    """Rows uint8 [R, bytes] as a matrix in the type's scheme."""
    blocks, scheme = decoded(kind, raw), BLOCK_TYPES[kind].scheme
    rows, columns = blocks.codes.shape
    row = torch.arange(-(-rows // TILE_ROWS) * TILE_ROWS).clamp(max=rows - 1)
    codes, *sides = (
        None if x is None else (x if len(row) == rows else x[row])
        for x in (blocks.codes, blocks.scale, blocks.minimum)
    )
    assert codes is not None
    dtype = side_type(scheme)
    scale, minimum = (None if x is None else by_block(x.to(dtype)) for x in sides)
    assert scale is not None
    return Packed(scheme, (rows, columns), pack(codes, scheme.bits), scale, minimum)
