"""LUC's formulas, and what keeps them within bounds."""

import math
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgewise.compression.policies import (
    Compression,
    luc_bits,
    luc_compression,
    luc_sparsities,
    pruned_scheme,
    shuffled_compression,
    uniform_compression,
)
from edgewise.errors import InputError, SchemeError

ERRORS = (0.1, 0.2, 0.3, 1.0, 0.4)


def test_blocks_above_the_mean_get_a_bit_more() -> None:
    assert luc_bits(ERRORS, 4) == (4, 4, 4, 5, 5)
    assert luc_bits((2.0, 2.0), 3) == (4, 4)  # at the mean counts, as in equation 1


def test_shares_by_hand() -> None:
    """1 - s' are 1, 8/9, 7/9, 0, 6/9: 30/9 in all."""
    expected = [0.5 * 5 * x / (30 / 9) for x in (1, 8 / 9, 7 / 9, 0, 6 / 9)]
    assert luc_sparsities(ERRORS, 0.5) == pytest.approx(expected)


def test_shares_beyond_all_go_to_the_others() -> None:
    """At 0.7 the first would be pruned by 1.05: it is gone, and the others take the rest."""
    rest = [0.7 * 5 - 1, 8 / 9 + 7 / 9 + 6 / 9]
    expected = [1.0, *(rest[0] / rest[1] * x for x in (8 / 9, 7 / 9, 0, 6 / 9))]
    assert luc_sparsities(ERRORS, 0.7) == pytest.approx(expected)
    # At 0.78 so are the second, and in turn the third; the one that feels it most stays whole.
    assert luc_sparsities(ERRORS, 0.78) == pytest.approx([1.0, 1.0, 1.0, 0.0, 0.9])


@given(
    st.lists(st.floats(0, 1e6), min_size=1, max_size=40),
    st.floats(0, 1, exclude_max=True),
)
def test_shares_are_shares_and_keep_their_mean(errors: list[float], sparsity: float) -> None:
    shares = luc_sparsities(errors, sparsity)
    assert all(0 <= share <= 1 for share in shares)
    assert sum(shares) / len(shares) == pytest.approx(sparsity, abs=1e-9)
    ranked = [share for _, share in sorted(zip(errors, shares, strict=True))]
    if len(set(errors)) == len(errors):
        assert all(a >= b - 1e-9 for a, b in pairwise(ranked))


def test_a_lot_moves_bits_and_shares_and_changes_neither() -> None:
    chosen = luc_compression(ERRORS, ERRORS, 4, 0.5)
    assert chosen.average_bits == pytest.approx(4.4)
    drawn = [shuffled_compression(chosen, seed) for seed in range(5)]
    assert drawn[0] == shuffled_compression(chosen, 0)
    assert len({*drawn, chosen}) > 3
    for way in drawn:
        assert sorted(way.bits) == sorted(chosen.bits)
        assert sorted(way.sparsities) == sorted(chosen.sparsities)


def test_all_alike() -> None:
    assert uniform_compression(3, 4, 0.5) == Compression((4, 4, 4), (0.5, 0.5, 0.5))


@pytest.mark.parametrize("sparsity", [-0.1, 1.0, 1.5, math.nan, math.inf])
def test_shares_that_cannot_be(sparsity: float) -> None:
    for choose in (
        lambda: uniform_compression(3, 4, sparsity),
        lambda: luc_compression(ERRORS, ERRORS, 4, sparsity),
    ):
        with pytest.raises(InputError, match="from 0 to below 1"):
            choose()


@pytest.mark.parametrize("bits", [0, 1, 7, 9, 16, -4])
def test_bits_that_no_scheme_has(bits: int) -> None:
    with pytest.raises(SchemeError, match=f"codes of {bits} bits; there are: 2, 3, 4, 5, 6, 8"):
        uniform_compression(3, bits, 0.5)


def test_one_bit_more_must_be_there_too() -> None:
    with pytest.raises(SchemeError, match="codes of 7 bits"):
        luc_compression(ERRORS, ERRORS, 6, 0.5)


@pytest.mark.parametrize("bits", [2, 3, 4, 5, 6, 8])
def test_zero_is_a_code(bits: int) -> None:
    scheme = pruned_scheme(bits)
    assert scheme.bits == bits and not scheme.asymmetric
