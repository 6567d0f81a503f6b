"""A matrix in few bits: codes and what turns them back into numbers."""

from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from edgewise.quantization.pack import COLUMNS, ROWS, pack, unpack
from edgewise.schemes import Family, Scheme


@dataclass(frozen=True)
class Packed:
    """A matrix [rows, columns] in a scheme, filled up to whole tiles of 16 rows and 32 columns.

    codes: uint8 [B, T, bits, 64] (pack.py). Grouped: `scale` and `minimum` bf16 [B, G, 16], one per
    group and row; symmetric codes count from -2**(bits - 1), asymmetric ones from `minimum`.
    Truncated: `scale` fp32 [1], the value of the last bit.
    """

    scheme: Scheme
    shape: tuple[int, int]
    codes: Tensor
    scale: Tensor
    minimum: Tensor | None = None

    @property
    def nbytes(self) -> int:
        side = 0 if self.minimum is None else self.minimum.nbytes
        return self.codes.nbytes + self.scale.nbytes + side

    @cached_property
    def compute_dtype(self) -> torch.dtype:
        found: torch.dtype = getattr(torch, self.scheme.compute)
        return found

    def dequantized(self, start: int = 0, end: int | None = None) -> Tensor:
        """Rows [start, end) as float32 [end - start, columns]."""
        end = self.shape[0] if end is None else end
        first, last = start // ROWS, -(-end // ROWS)
        blocks = slice(first, last)
        codes = unpack(self.codes[blocks], self.scheme.bits).float()
        minimum = None if self.minimum is None else self.minimum[blocks]
        values = _values(self.scheme, codes, self.scale, blocks, minimum)
        return values[start - first * ROWS : end - first * ROWS, : self.shape[1]]

    def rows(self, numbers: Tensor) -> Tensor:
        """The rows of these numbers [...], float32 [..., columns]: for embeddings."""
        flat = numbers.reshape(-1)
        block, row = flat // ROWS, flat % ROWS
        tiles = self.codes.view(*self.codes.shape[:3], ROWS, 4)
        picked = tiles[block, :, :, row]  # [n, T, bits, 4]
        # Every row takes the place of the first in a tile of its own.
        alone = picked.new_zeros(*picked.shape[:3], ROWS, 4)
        alone[:, :, :, 0] = picked
        codes = unpack(alone.flatten(-2), self.scheme.bits)[::ROWS].float()
        scale = self.scale
        minimum = None if self.minimum is None else self.minimum[block, :, row]
        if self.scheme.family is Family.GROUPED:
            scale = scale[block, :, row]
        values = _decoded(self.scheme, codes, scale, minimum)
        return values[:, : self.shape[1]].reshape(*numbers.shape, -1)


def _values(
    scheme: Scheme, codes: Tensor, scale: Tensor, blocks: slice, minimum: Tensor | None
) -> Tensor:
    """codes [R, C] of some blocks of rows, with their scales [B, G, 16]."""
    if scheme.family is Family.GROUPED:
        scale = by_row(scale[blocks])
        minimum = None if minimum is None else by_row(minimum)
    return _decoded(scheme, codes, scale, minimum)


def _decoded(scheme: Scheme, codes: Tensor, scale: Tensor, minimum: Tensor | None) -> Tensor:
    """codes [R, C], scales and minima [R, G] -> numbers [R, C]."""
    if scheme.family is Family.TRUNCATED:
        return (codes - offset(scheme)) * scale
    grouped = codes.reshape(len(codes), -1, scheme.group)
    by = scale.float().unsqueeze(-1)
    if minimum is None:
        return ((grouped - offset(scheme)) * by).flatten(1)
    return (grouped * by + minimum.float().unsqueeze(-1)).flatten(1)


def shape_of(matrix: Tensor) -> tuple[int, int]:
    rows, columns = matrix.shape
    return rows, columns


def offset(scheme: Scheme) -> int:
    """The code of zero, where the scheme is symmetric."""
    return 1 << (scheme.bits - 1)


def by_row(side: Tensor) -> Tensor:
    """[B, G, 16] -> [B * 16, G]."""
    return side.transpose(1, 2).flatten(0, 1)


def by_block(side: Tensor) -> Tensor:
    """[B * 16, G] -> bf16 [B, G, 16]."""
    blocks = side.reshape(-1, ROWS, side.shape[1]).transpose(1, 2)
    return blocks.to(torch.bfloat16).contiguous()


def filled_up(matrix: Tensor, scheme: Scheme) -> Tensor:
    """A matrix [rows, columns] with its last row and column repeated up to whole tiles and
    groups: repeating widens no range."""
    rows, columns = matrix.shape
    row = torch.arange(-(-rows // ROWS) * ROWS, device=matrix.device).clamp(max=rows - 1)
    width = scheme.group or COLUMNS
    column = torch.arange(-(-columns // width) * width, device=matrix.device)
    return matrix[row][:, column.clamp(max=columns - 1)]


def packed(
    scheme: Scheme,
    shape: tuple[int, int],
    codes: Tensor,
    scale: Tensor,
    minimum: Tensor | None = None,
) -> Packed:
    """From codes [R, C] counted from 0, with scales and minima [R, G], or a single scale."""
    stored = pack(codes.to(torch.int32), scheme.bits)
    if scheme.family is Family.TRUNCATED:
        return Packed(scheme, shape, stored, scale.float().reshape(1))
    least = None if minimum is None else by_block(minimum)
    return Packed(scheme, shape, stored, by_block(scale), least)


def joined(parts: list[Packed]) -> Packed:
    """Matrices in one grouped scheme, below each other: all but the last in whole tiles."""
    if len(parts) == 1:
        return parts[0]
    first, minima = parts[0], [x.minimum for x in parts if x.minimum is not None]
    return Packed(
        first.scheme,
        (sum(x.shape[0] for x in parts), first.shape[1]),
        torch.cat([x.codes for x in parts]),
        torch.cat([x.scale for x in parts]),
        torch.cat(minima) if minima else None,
    )


def random_packed(scheme: Scheme, shape: tuple[int, int], device: torch.device) -> Packed:
    """Random codes on the scale of trained weights: for timing, without a checkpoint."""
    rows, columns = -(-shape[0] // ROWS), -(-shape[1] // (scheme.group or COLUMNS))
    tiles = columns * (scheme.group or COLUMNS) // COLUMNS
    codes = torch.randint(256, (rows, tiles, scheme.bits, 64), dtype=torch.uint8, device=device)
    step = 0.05 / offset(scheme)
    if scheme.family is Family.TRUNCATED:
        return Packed(scheme, shape, codes, torch.full((1,), step, device=device))
    side = torch.full((rows, columns, ROWS), step, dtype=torch.bfloat16, device=device)
    minimum = torch.full_like(side, -0.05) if scheme.asymmetric else None
    return Packed(scheme, shape, codes, side, minimum)
