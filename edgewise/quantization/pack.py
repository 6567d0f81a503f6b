"""Codes of any width in bytes, in the order in which the kernels read them.

A code is split into planes of 8, 4, 2 and 1 bits (6 = 4 + 2), the low ones first. Codes come in
tiles of 16 rows and 32 columns, a plane of p bits taking p vectors of 64 bytes. A chunk is 16 rows
of 4 neighbouring columns, its 64 codes row by row; a tile has 8 chunks, and vector v of a plane
holds chunks v * 8 / p to (v + 1) * 8 / p - 1, the first in the lowest bits of every byte. So one
load gives the codes of 16 rows, a mask separates chunks, and no code crosses a byte.
"""

import torch
from torch import Tensor

from edgewise.schemes import TILE_COLUMNS, TILE_ROWS

ROWS, COLUMNS, CHUNKS = TILE_ROWS, TILE_COLUMNS, 8


def planes(bits: int) -> list[tuple[int, int]]:
    """(width, shift) of every plane, the lowest first. The low plane is the widest."""
    layout, shift = [], 0
    for width in (8, 4, 2, 1):
        while bits - shift >= width:
            layout.append((width, shift))
            shift += width
    return layout


def pack(codes: Tensor, bits: int) -> Tensor:
    """codes, whole numbers in [0, 2**bits), [R, C] with R a multiple of 16 and C of 32 ->
    uint8 [R / 16, C / 32, bits, 64]."""
    rows, columns = codes.shape
    tiles = codes.view(rows // ROWS, ROWS, columns // COLUMNS, CHUNKS, 4)
    tiles = tiles.permute(0, 2, 3, 1, 4).reshape(rows // ROWS, columns // COLUMNS, CHUNKS, 64)
    packed = []
    for width, shift in planes(bits):
        fields = (tiles >> shift) & ((1 << width) - 1)
        fields = fields.view(*tiles.shape[:2], width, CHUNKS // width, 64).to(torch.uint8)
        byte = fields[:, :, :, 0]
        for number in range(1, CHUNKS // width):
            byte = byte | (fields[:, :, :, number] << (width * number))
        packed.append(byte)
    return torch.cat(packed, dim=2)


def unpack(packed: Tensor, bits: int) -> Tensor:
    """uint8 [R / 16, C / 32, bits, 64] -> codes [R, C], uint8 for up to 8 bits, else int32."""
    blocks, tiles = packed.shape[:2]
    codes = chunks(packed, bits).view(blocks, tiles, CHUNKS, ROWS, 4).permute(0, 3, 1, 2, 4)
    return codes.reshape(blocks * ROWS, tiles * COLUMNS)


def chunks(packed: Tensor, bits: int) -> Tensor:
    """uint8 [..., bits, N], of each vector any N bytes -> their codes [..., 8, N] chunk by chunk,
    uint8 for up to 8 bits, else int32."""
    kind = torch.uint8 if bits <= 8 else torch.int32
    codes, vector = None, 0
    for width, shift in planes(bits):
        plane = packed[..., vector : vector + width, :].unsqueeze(-2)
        by = torch.arange(0, 8, width, dtype=torch.uint8, device=packed.device).unsqueeze(-1)
        digits = ((plane >> by) & ((1 << width) - 1)).flatten(-3, -2).to(kind) << shift
        codes = digits if codes is None else codes | digits
        vector += width
    assert codes is not None
    return codes
