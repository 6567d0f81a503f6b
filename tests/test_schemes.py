"""Schemes: what a stored weight takes, and what happens to a name that does not exist."""

import pytest

from edgewise.errors import SchemeError
from edgewise.schemes import DEFAULT, KNOWN, RANGE_BYTES, SCHEMES, Family, get_scheme

# bits, compute type, bytes of a computed value, bytes of a 3 x 8 matrix: by hand
MATRICES = {
    "fp32": (32, "float32", 4, 96),
    "bf16": (16, "bfloat16", 2, 48),
    "fp16": (16, "float16", 2, 48),
    # 16 rows (whole tiles) of one group: codes and a scale of two bytes, a minimum of two
    "q4g64": (4, "bfloat16", 2, 16 * (32 + 2)),
    "q3g32a": (3, "bfloat16", 2, 16 * (12 + 4)),
    "q2g128": (2, "bfloat16", 2, 16 * (32 + 2)),
    # 64 columns, of which 32 codes of 4 bits and their places, two scales and the row's
    "q4g32ds": (4, "bfloat16", 2, 16 * (16 + 8 + 2 + 2)),
    # 16 rows of 32 columns, and the range of the whole matrix
    "t6": (6, "bfloat16", 2, 16 * 32 * 6 // 8 + 4),
}


@pytest.mark.parametrize("name", MATRICES)
def test_a_scheme_stores_what_it_says(name: str) -> None:
    scheme = get_scheme(name)
    assert scheme.name == name
    figures = (scheme.bits, scheme.compute, scheme.compute_bytes, scheme.matrix_bytes(3, 8))
    assert figures == MATRICES[name]


def test_every_scheme_stores_twice_the_rows_in_twice_the_bytes() -> None:
    for name, scheme in SCHEMES.items():
        if scheme.family in (Family.STORED, Family.RECIPE):
            continue
        once = RANGE_BYTES if scheme.family is Family.TRUNCATED else 0
        twice = 2 * (scheme.matrix_bytes(64, 64) - once)
        assert scheme.matrix_bytes(128, 64) - once == twice > 0, name


def test_double_quantization_stores_a_byte_a_side_and_two_a_row() -> None:
    # 16 rows of two groups: 64 codes of 4 bits, two scales and two minima, the row's units
    assert get_scheme("q4g32ad").matrix_bytes(3, 40) == 16 * (32 + 2 + 2 + 4)
    # Groups of 16: the row is still filled up to a tile of 32 columns.
    assert get_scheme("q6g16d").matrix_bytes(3, 40) == 16 * (48 + 4 + 2)


def test_a_sparse_scheme_takes_half_of_the_codes_and_a_bit_a_weight() -> None:
    for name, scheme in SCHEMES.items():
        if not scheme.sparse:
            continue
        assert name == f"{scheme.dense.name}s" and not scheme.dense.sparse
        assert scheme.weight_bits == scheme.bits / 2 + 1
        saved = scheme.dense.matrix_bytes(16, 128) - scheme.matrix_bytes(16, 128)
        assert saved == 16 * 128 / 8 * (scheme.bits - scheme.weight_bits)


def test_the_default_exists() -> None:
    assert DEFAULT in SCHEMES


@pytest.mark.parametrize("name", ["", "FP32", "fp32 ", "int3"])
def test_an_unknown_name_is_refused_with_the_known_ones(name: str) -> None:
    with pytest.raises(SchemeError) as caught:
        get_scheme(name)
    assert str(caught.value) == f"unknown scheme '{name}'; known schemes: {KNOWN}"
    assert caught.value.exit_code == 2
