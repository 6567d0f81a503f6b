"""Codes in bytes: exact for every width, and where the layout says they are."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from edgewise.quantization.pack import pack, planes, unpack

WIDTHS = (2, 3, 4, 5, 6, 8, 10, 12, 14, 16)


@pytest.mark.parametrize("bits", WIDTHS)
def test_planes_make_up_the_width(bits: int) -> None:
    layout = planes(bits)
    assert sum(width for width, _ in layout) == bits
    assert all(width in (1, 2, 4, 8) for width, _ in layout)
    assert [shift for _, shift in layout] == [
        sum(width for width, _ in layout[:i]) for i in range(len(layout))
    ]


@settings(max_examples=60, deadline=None, derandomize=True)
@given(
    bits=st.sampled_from(WIDTHS),
    blocks=st.integers(1, 4),
    tiles=st.integers(1, 5),
    seed=st.integers(0, 2**31),
)
def test_codes_come_back(bits: int, blocks: int, tiles: int, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    shape = (16 * blocks, 32 * tiles)
    codes = torch.randint(2**bits, shape, generator=generator, dtype=torch.int32)
    stored = pack(codes, bits)
    assert stored.dtype == torch.uint8
    assert stored.nbytes * 8 == codes.numel() * bits
    assert torch.equal(unpack(stored, bits).to(torch.int32), codes)


@pytest.mark.parametrize("bits", WIDTHS)
def test_the_extremes_come_back(bits: int) -> None:
    for extreme in (0, 2**bits - 1):
        codes = torch.full((16, 32), extreme, dtype=torch.int32)
        assert torch.equal(unpack(pack(codes, bits), bits).to(torch.int32), codes)


@pytest.mark.parametrize("bits", WIDTHS)
def test_a_code_lies_where_the_layout_says(bits: int) -> None:
    """One code at a time, found again with nothing but the description of the layout."""
    top = 2**bits - 1
    for row, column in ((0, 0), (3, 5), (15, 31), (7, 16)):
        codes = torch.zeros(32, 64, dtype=torch.int32)
        codes[16 + row, 32 + column] = top
        stored = pack(codes, bits)[1, 1]
        chunk, expected, vector = column // 4, torch.zeros_like(stored), 0
        for width, _ in planes(bits):
            fields = 8 // width
            byte = ((1 << width) - 1) << (width * (chunk % fields))
            expected[vector + chunk // fields, 4 * row + column % 4] = byte
            vector += width
        assert torch.equal(stored, expected)
