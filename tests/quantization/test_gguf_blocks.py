"""Blocks of GGUF files, decoded and repacked, against the `gguf` library's dequantization."""

import gguf
import numpy as np
import pytest
import torch
from gguf import GGMLQuantizationType as Type
from gguf.constants import GGML_QUANT_SIZES
from hypothesis import given, settings
from hypothesis import strategies as st

from edgewise.errors import ModelError
from edgewise.models.gguf.blocks import BLOCK_TYPES, decoded, repacked, values
from edgewise.quantization.pack import unpack
from edgewise.quantization.packed import offset

# Where fp16 numbers lie in a block: random bytes there may be no number.
HALVES = {
    "Q8_0": [0],
    "Q4_0": [0],
    "Q4_1": [0, 2],
    "Q5_0": [0],
    "Q5_1": [0, 2],
    "Q4_K": [0, 2],
    "Q5_K": [0, 2],
    "Q6_K": [208],
    "Q3_K": [108],
    "Q2_K": [80, 82],
}
WRITABLE = ("Q8_0", "Q4_0", "Q4_1", "Q5_0", "Q5_1", "MXFP4")


def random_rows(kind: str, seed: int, rows: int, blocks: int) -> np.ndarray:
    size = GGML_QUANT_SIZES[Type[kind]][1]
    raw = np.random.default_rng(seed).integers(0, 256, (rows, blocks, size), dtype=np.uint8)
    for at in HALVES.get(kind, []):
        raw[:, :, at + 1] &= 0xBF  # exponents of at most half their range
    if kind == "MXFP4":
        raw[:, :, 0] = np.minimum(raw[:, :, 0], 250)  # nothing overflows
    return raw.reshape(rows, -1)


@pytest.mark.parametrize("kind", BLOCK_TYPES)
@settings(max_examples=15, deadline=None)
@given(seed=st.integers(0, 2**32), rows=st.integers(1, 40), blocks=st.integers(1, 3))
def test_numbers_are_the_librarys_bit_for_bit(kind: str, seed: int, rows: int, blocks: int) -> None:
    raw = random_rows(kind, seed, rows, blocks)
    truth = torch.from_numpy(gguf.quants.dequantize(raw, Type[kind]))
    assert torch.equal(values(kind, torch.from_numpy(raw)), truth)


@pytest.mark.parametrize("kind", BLOCK_TYPES)
@settings(max_examples=15, deadline=None)
@given(seed=st.integers(0, 2**32), rows=st.integers(1, 40), blocks=st.integers(1, 3))
def test_repacking_keeps_codes_and_rounds_sides_once(
    kind: str, seed: int, rows: int, blocks: int
) -> None:
    raw = torch.from_numpy(random_rows(kind, seed, rows, blocks))
    exact, packed = decoded(kind, raw), repacked(kind, raw)
    scheme, columns = packed.scheme, exact.codes.shape[1]
    assert packed.shape == (rows, columns)
    assert packed.nbytes == scheme.matrix_bytes(rows, columns)
    codes = unpack(packed.codes, scheme.bits)[:rows, :columns]
    assert torch.equal(codes, exact.codes)
    scale, minimum = exact.scale.bfloat16().float(), exact.minimum
    counted = codes.float().view(*scale.shape, scheme.group)
    if minimum is None:
        rounded = (counted - offset(scheme)) * scale.unsqueeze(-1)
    else:
        rounded = counted * scale.unsqueeze(-1) + minimum.bfloat16().float().unsqueeze(-1)
    assert torch.equal(packed.dequantized(), rounded.flatten(1))
    # bf16 keeps 8 bits: sides change by at most 2**-8 of themselves, beneath its smallest normal
    # number by at most half of its smallest one.
    least = 2.0**-134
    error = (packed.dequantized() - values(kind, raw)).abs().view(*scale.shape, scheme.group)
    bound = (counted - (offset(scheme) if minimum is None else 0)).abs() * (
        exact.scale.abs() * 2.0**-8 + least
    ).unsqueeze(-1)
    if minimum is not None:
        bound = bound + (minimum.abs() * 2.0**-8 + least).unsqueeze(-1)
    assert (error <= bound * (1 + 1e-5) + 1e-6 * rounded.abs()).all()


@pytest.mark.parametrize("kind", WRITABLE)
def test_what_the_library_quantized_comes_back(kind: str) -> None:
    weights = np.random.default_rng(0).normal(size=(33, 96)).astype(np.float32)
    raw = gguf.quants.quantize(weights, Type[kind])
    truth = torch.from_numpy(gguf.quants.dequantize(raw, Type[kind]))
    assert torch.equal(values(kind, torch.from_numpy(raw)), truth)
    step = decoded(kind, torch.from_numpy(raw)).scale.abs().max()
    packed = repacked(kind, torch.from_numpy(raw))
    assert (packed.dequantized() - truth).abs().max() < 0.3 * step
    torch.testing.assert_close(packed.rows(torch.tensor([32, 0])), packed.dequantized()[[32, 0]])


def test_mxfp4_is_exact() -> None:
    raw = torch.from_numpy(random_rows("MXFP4", 1, 17, 3))
    assert torch.equal(repacked("MXFP4", raw).dequantized(), values("MXFP4", raw))


@pytest.mark.parametrize("kind", HALVES)
def test_scales_that_are_no_numbers_are_refused(kind: str) -> None:
    raw = random_rows(kind, 0, 2, 1)
    at = HALVES[kind][0]
    raw[1, at : at + 2] = (0x00, 0x7E)
    with pytest.raises(ModelError, match="not finite"):
        repacked(kind, torch.from_numpy(raw))
