"""A matrix in few bits: codes and what turns them back into numbers."""

from dataclasses import dataclass, replace
from functools import cached_property

import torch
from torch import Tensor

from edgewise.quantization.pack import ROWS, chunks, pack, unpack
from edgewise.quantization.sparse import pack_sparse, separate, unpack_sparse, with_zeros, zero_code
from edgewise.schemes import INDEX_BITS, Family, Scheme

PARTS = ("codes", "scale", "minimum", "row_scale", "row_minimum")
SIDE_STEPS = 127  # of a doubly quantized scale or minimum, either way


@dataclass(frozen=True)
class Sides:
    """Scales and minima [R, G] of the groups of a matrix, as a scheme can hold them: numbers of
    bf16, or where double whole multiples in [-127, 127] of the rows' units [R, 1]."""

    scale: Tensor
    minimum: Tensor | None = None
    row_scale: Tensor | None = None
    row_minimum: Tensor | None = None

    @property
    def steps(self) -> Tensor:
        """The scales as numbers [R, G]."""
        return self.scale if self.row_scale is None else self.scale * self.row_scale

    @property
    def least(self) -> Tensor | None:
        """The minima as numbers [R, G]."""
        if self.minimum is None or self.row_minimum is None:
            return self.minimum
        return self.minimum * self.row_minimum


@dataclass(frozen=True)
class Packed:
    """A matrix [rows, columns] in a scheme, filled up to whole tiles of 16 rows and 32 columns.

    codes: uint8 [B, T, bits, 64] (pack.py); sparse ones [B, T, bits + 2, 64] in tiles of 64 columns
    (sparse.py). Grouped: `scale` and `minimum` [B, G, 16], one per
    group and row, bf16 or where `half` fp16; symmetric codes count from -2**(bits - 1),
    asymmetric ones from `minimum`. Double: these are int8, multiples of the row's `row_scale` and
    `row_minimum`, bf16 [B, 16].
    Truncated: `scale` fp32 [1], the value of the last bit.
    """

    scheme: Scheme
    shape: tuple[int, int]
    codes: Tensor
    scale: Tensor
    minimum: Tensor | None = None
    row_scale: Tensor | None = None
    row_minimum: Tensor | None = None

    @property
    def tensors(self) -> dict[str, Tensor]:
        """Its tensors by name, those that the scheme has."""
        parts = {name: getattr(self, name) for name in PARTS}
        return {name: tensor for name, tensor in parts.items() if tensor is not None}

    @property
    def nbytes(self) -> int:
        return sum(tensor.nbytes for tensor in self.tensors.values())

    def to(self, device: torch.device) -> "Packed":
        """The same on another device."""
        parts = {name: tensor.to(device) for name, tensor in self.tensors.items()}
        return Packed(self.scheme, self.shape, **parts)

    def sides(self, blocks: slice | Tensor, row: slice | Tensor) -> tuple[Tensor, Tensor | None]:
        """Scales and minima of some blocks and rows in them, as numbers."""
        scale = _times(self.scale[blocks, :, row], self.row_scale, blocks, row)
        if self.minimum is None:
            return scale, None
        return scale, _times(self.minimum[blocks, :, row], self.row_minimum, blocks, row)

    @cached_property
    def compute_dtype(self) -> torch.dtype:
        dtype: torch.dtype = getattr(torch, self.scheme.compute)
        return dtype

    def dequantized(self, start: int = 0, end: int | None = None) -> Tensor:
        """Rows [start, end) as float32 [end - start, columns]."""
        end = self.shape[0] if end is None else end
        first, last = start // ROWS, -(-end // ROWS)
        blocks = slice(first, last)
        codes = unpack_codes(self.codes[blocks], self.scheme).float()
        scale, minimum = self.scale, None
        if self.scheme.family is Family.GROUPED:
            scale, minimum = self.sides(blocks, slice(None))
            scale, minimum = by_row(scale), None if minimum is None else by_row(minimum)
        numbers = _decoded(self.scheme, codes, scale, minimum)
        return numbers[start - first * ROWS : end - first * ROWS, : self.shape[1]]

    def rows(self, numbers: Tensor) -> Tensor:
        """The rows of these numbers [...], float32 [..., columns]: for embeddings."""
        flat = numbers.reshape(-1)
        block, row = flat // ROWS, flat % ROWS
        tiles = self.codes.view(*self.codes.shape[:3], ROWS, 4)
        picked, bits = tiles[block, :, :, row], self.scheme.bits  # [n, T, bits, 4]
        codes = chunks(picked[:, :, :bits], bits).flatten(1)
        if self.scheme.sparse:
            codes = with_zeros(codes, chunks(picked[:, :, bits:], INDEX_BITS).flatten(1), bits)
        codes = codes.float()
        scale, minimum = self.scale, None
        if self.scheme.family is Family.GROUPED:
            scale, minimum = self.sides(block, row)
        decoded = _decoded(self.scheme, codes, scale, minimum)
        return decoded[:, : self.shape[1]].reshape(*numbers.shape, -1)


def _times(side: Tensor, by: Tensor | None, blocks: slice | Tensor, row: slice | Tensor) -> Tensor:
    """A side of some blocks and rows, times what it is a multiple of where quantized doubly."""
    if by is None:
        return side.float()
    unit = by[blocks, row].float()
    # Whole blocks [B, G, 16], single rows [n, G].
    return side.float() * unit.unsqueeze(1)


def _decoded(scheme: Scheme, codes: Tensor, scale: Tensor, minimum: Tensor | None) -> Tensor:
    """codes [R, C], scales and minima [R, G] -> numbers [R, C]."""
    if scheme.family is Family.TRUNCATED:
        return (codes - offset(scheme)) * scale
    grouped = codes.reshape(len(codes), -1, scheme.group)
    by = scale.float().unsqueeze(-1)
    if minimum is None:
        return ((grouped - offset(scheme)) * by).flatten(1)
    return (grouped * by + minimum.float().unsqueeze(-1)).flatten(1)


def pack_codes(codes: Tensor, scheme: Scheme) -> Tensor:
    """Codes from 0 on [R, C] of whole tiles as a scheme keeps them."""
    return (pack_sparse if scheme.sparse else pack)(codes, scheme.bits)


def unpack_codes(stored: Tensor, scheme: Scheme) -> Tensor:
    """The same back again."""
    return (unpack_sparse if scheme.sparse else unpack)(stored, scheme.bits)


def shape_of(matrix: Tensor) -> tuple[int, int]:
    rows, columns = matrix.shape
    return rows, columns


def side_type(scheme: Scheme) -> torch.dtype:
    """What scales and minima of groups are kept in."""
    if scheme.half:
        return torch.float16
    return torch.int8 if scheme.double else torch.bfloat16


def offset(scheme: Scheme) -> int:
    """The code of zero, where the scheme is symmetric."""
    return zero_code(scheme.bits)


def by_row(side: Tensor) -> Tensor:
    """[B, G, 16] -> [B * 16, G]."""
    return side.transpose(1, 2).flatten(0, 1)


def by_block(side: Tensor) -> Tensor:
    """[B * 16, G] -> [B, G, 16]."""
    return side.reshape(-1, ROWS, side.shape[1]).transpose(1, 2).contiguous()


def filled_up(matrix: Tensor, scheme: Scheme) -> Tensor:
    """A matrix [rows, columns] with its last row and column repeated up to whole tiles and
    groups: repeating widens no range."""
    rows, columns = matrix.shape
    row = torch.arange(-(-rows // ROWS) * ROWS, device=matrix.device).clamp(max=rows - 1)
    column = torch.arange(scheme.width(columns), device=matrix.device)
    return matrix[row][:, column.clamp(max=columns - 1)]


def packed(scheme: Scheme, shape: tuple[int, int], codes: Tensor, sides: Sides) -> Packed:
    """From codes [R, C], symmetric ones counted from the middle, and their groups' sides."""
    shifted = codes.to(torch.int32) + (0 if scheme.asymmetric else offset(scheme))
    kind = side_type(scheme)
    by_group = (
        None if side is None else by_block(side).to(kind) for side in (sides.scale, sides.minimum)
    )
    by_row = (
        None if side is None else side.reshape(-1, ROWS).to(torch.bfloat16)
        for side in (sides.row_scale, sides.row_minimum)
    )
    tensors = zip(PARTS, (pack_codes(shifted, scheme), *by_group, *by_row), strict=True)
    return Packed(scheme, shape, **{name: side for name, side in tensors if side is not None})


def made_sparse(dense: Packed, scheme: Scheme) -> Packed:
    """A matrix, of every four neighbours in a row at most two not zero, in the sparse scheme of its
    scheme: the same numbers."""
    columns, pad = dense.shape[1], torch.nn.functional.pad
    known = unpack(dense.codes, scheme.bits)[:, :columns]
    codes = pad(known, (0, scheme.width(columns) - columns), value=offset(scheme))
    scale = pad(dense.scale, (0, 0, 0, scheme.groups(columns) - dense.scale.shape[1]))
    return replace(dense, scheme=scheme, codes=pack_codes(codes, scheme), scale=scale)


def sides_of(packed: Packed) -> Sides:
    """The sides of a matrix in a grouped scheme, as `packed` takes them."""
    scale, minimum = (
        None if side is None else by_row(side).float() for side in (packed.scale, packed.minimum)
    )
    units = (
        None if side is None else side.float().reshape(-1, 1)
        for side in (packed.row_scale, packed.row_minimum)
    )
    assert scale is not None
    return Sides(scale, minimum, *units)


def joined(parts: list[Packed]) -> Packed:
    """Matrices in one grouped scheme, below each other: all but the last in whole tiles."""
    if len(parts) == 1:
        return parts[0]
    tensors = [part.tensors for part in parts]
    stacked = {name: torch.cat([x[name] for x in tensors]) for name in tensors[0]}
    rows = sum(part.shape[0] for part in parts)
    return Packed(parts[0].scheme, (rows, parts[0].shape[1]), **stacked)


def rows_of(whole: Packed, start: int, end: int) -> Packed:
    """Rows [start, end) of a matrix in a grouped scheme, filled up anew to whole tiles: the same
    numbers."""
    filled = start + -(-(end - start) // ROWS) * ROWS
    row = torch.arange(start, filled, device=whole.codes.device).clamp(max=end - 1)
    codes = unpack_codes(whole.codes, whole.scheme)[row].to(torch.int32)
    parts = {"codes": pack_codes(codes, whole.scheme)}
    for name, side in whole.tensors.items():
        if name in ("scale", "minimum"):
            parts[name] = by_block(by_row(side)[row])
        elif name != "codes":
            parts[name] = side.reshape(-1)[row].view(-1, ROWS)
    return Packed(whole.scheme, (end - start, whole.shape[1]), **parts)


def empty_packed(scheme: Scheme, shape: tuple[int, int], device: torch.device) -> Packed:
    """Tensors of the types and sizes that a matrix has, whatever is in them."""

    def empty(dtype: torch.dtype, *size: int) -> Tensor:
        return torch.empty(size, dtype=dtype, device=device)

    rows, tiles = -(-shape[0] // ROWS), scheme.width(shape[1]) // scheme.tile_columns
    codes = empty(torch.uint8, rows, tiles, scheme.tile_lines, 64)
    if scheme.family is Family.TRUNCATED:
        return Packed(scheme, shape, codes, empty(torch.float32, 1))
    sides = ["scale", *["minimum"] * scheme.asymmetric]
    groups, kind = (rows, scheme.groups(shape[1]), ROWS), side_type(scheme)
    parts = {side: empty(kind, *groups) for side in sides}
    if scheme.double:
        parts |= {f"row_{side}": empty(torch.bfloat16, rows, ROWS) for side in sides}
    return Packed(scheme, shape, codes, **parts)


def random_packed(scheme: Scheme, shape: tuple[int, int], device: torch.device) -> Packed:
    """Random codes on the scale of trained weights: for timing, without a checkpoint."""
    made, step = empty_packed(scheme, shape, device), 0.05 / offset(scheme)
    steps = SIDE_STEPS if scheme.double else 1
    made.codes.random_(256)
    if scheme.sparse:
        separate(made.codes[:, :, scheme.bits :])
    for side, least in ((made.scale, step), (made.minimum, -0.05)):
        if side is not None:
            side.fill_(steps if scheme.double else least)
    for unit, least in ((made.row_scale, step), (made.row_minimum, -0.05)):
        if unit is not None:
            unit.fill_(least / steps)
    return made
