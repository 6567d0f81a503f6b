"""What may be merged, and what is refused by name."""

from dataclasses import replace

import numpy as np
import pytest

from edgewise.federating.updates import combination, names_of, sift
from tests.federating.updates import constant, drawn_updates, same

START = constant("start", 0.0).arrays
GOOD = constant("good", 1.0)


@pytest.mark.parametrize(
    ("arrays", "fault"),
    [
        ({"x": np.array([1.0, np.nan], np.float32)}, "x holds what is no finite number"),
        ({"x": np.array([-np.inf, 1.0], np.float32)}, "x holds what is no finite number"),
        ({"x": np.zeros((2, 1), np.float32)}, "x is [2, 1], not [2]"),
        ({"x": np.zeros(2)}, "x is of type float64, not float32"),
        ({"x": np.zeros(2, dtype=object)}, "x is of type object, not float32"),
        ({"y": np.zeros(2, np.float32)}, "x is missing"),
        ({**GOOD.arrays, "y": np.zeros(2, np.float32)}, "y is not asked for"),
        ({}, "x is missing"),
    ],
)
def test_who_sends_what_cannot_be_merged_is_refused_by_name(
    arrays: dict[str, np.ndarray], fault: str
) -> None:
    bad = replace(GOOD, client="bad", arrays=arrays)
    fit, refused = sift([GOOD, bad], START)
    assert fit == [GOOD]
    assert refused == [f"client 'bad' is refused: {fault}"]


@pytest.mark.parametrize("samples", [0, -3])
def test_who_trained_on_nothing_is_refused(samples: int) -> None:
    fit, refused = sift([replace(GOOD, samples=samples)], START)
    assert fit == []
    assert refused == [f"client 'good' is refused: it says that it trained on {samples} samples"]


def test_the_order_of_arrival_changes_nothing() -> None:
    updates = drawn_updates(5)
    assert sift(updates, updates[0].arrays) == sift(updates[::-1], updates[0].arrays)


def test_a_combination_is_the_sum_of_its_terms_in_new_arrays_that_stay_as_they_are() -> None:
    one, other = (x.arrays for x in drawn_updates(2))
    mixed = combination((2.0, one), (-0.5, other))
    assert same(mixed, {x: 2 * one[x] - other[x] / 2 for x in one}, 1e-6)
    copied = combination((1.0, one))
    assert all(x.dtype == np.float32 and not np.shares_memory(x, one[n]) for n, x in copied.items())
    with pytest.raises(ValueError, match="read-only"):
        copied["0.q.middle"][0] = 1.0


def test_nothing_is_no_mean() -> None:
    with pytest.raises(ValueError, match="no updates"):
        names_of([])
