"""Rules that hold while some clients lie."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgewise.errors import InputError
from edgewise.federating.averaging import fed_avg
from edgewise.federating.robust import (
    clipped,
    clipped_to_median,
    coordinate_median,
    movement,
    near,
    trimmed_mean,
)
from edgewise.federating.updates import Update
from tests.federating.updates import constant, drawn_updates, same, small_arrays

HONEST = [constant(f"client {i}", number, samples=10) for i, number in enumerate((1.0, 2.0, 3.0))]
lies = st.floats(-(2.0**100), 2.0**100, width=32)


def as_updates(arrays: list[np.ndarray]) -> list[Update]:
    return [Update(str(i), 1, {"x": x}) for i, x in enumerate(arrays)]


@given(lies)
def test_one_liar_of_four_moves_neither_median_nor_trimmed_mean_out_of_the_honest(
    lie: float,
) -> None:
    updates = [*HONEST, constant("liar", lie, samples=10**9)]
    for merged in (coordinate_median(updates), trimmed_mean(updates, trim=1)):
        assert (merged["x"] >= 1.0).all()
        assert (merged["x"] <= 3.0).all()


def test_the_mean_does_not_hold() -> None:
    assert (fed_avg([*HONEST, constant("liar", -1e6, samples=10)])["x"] < -1e5).all()


def test_by_hand() -> None:
    updates = as_updates([np.array([x, -x], np.float32) for x in (1, 10, 2, 100, 4)])
    assert coordinate_median(updates)["x"].tolist() == [4, -4]
    assert trimmed_mean(updates, 1)["x"].tolist() == pytest.approx([16 / 3, -16 / 3])
    assert trimmed_mean(updates, 2)["x"].tolist() == [4, -4]


@given(st.lists(small_arrays((2, 2)), min_size=1, max_size=7), st.randoms())
def test_order_matters_to_neither_and_trimming_nothing_is_the_mean(
    arrays: list[np.ndarray], random
) -> None:
    updates = as_updates(arrays)
    mixed = random.sample(updates, len(updates))
    assert same(coordinate_median(updates), coordinate_median(mixed))
    assert same(trimmed_mean(updates, 0), fed_avg(updates), 1e-4)
    half = (len(updates) - 1) // 2
    assert same(trimmed_mean(updates, half), coordinate_median(updates), 1e-4)
    assert same(trimmed_mean(updates, half), trimmed_mean(mixed, half), 1e-4)


@pytest.mark.parametrize("trim", [-1, 2, 3])
def test_something_must_be_left(trim: int) -> None:
    with pytest.raises(InputError, match="of 3 clients"):
        trimmed_mean(HONEST, trim)


@pytest.mark.parametrize("most", [0.01, 1.0, 3.0, 1e3])
def test_clipping_keeps_the_direction_and_bounds_the_movement(most: float) -> None:
    start, update = drawn_updates(2)
    drawn_back = clipped(update, start.arrays, most)
    flat, whole = (
        np.concatenate([(x.arrays[n] - start.arrays[n]).ravel() for n in start.arrays])
        for x in (drawn_back, update)
    )
    before = np.linalg.norm(whole)
    assert movement(update, start.arrays) == pytest.approx(before, rel=1e-6)
    assert np.linalg.norm(flat) == pytest.approx(min(before, most), rel=1e-4)
    assert flat @ whole == pytest.approx(np.linalg.norm(flat) * before, rel=1e-4)
    assert (drawn_back is update) == (before <= most)


def test_a_scaled_lie_moves_a_clipped_mean_by_no_more_than_its_share() -> None:
    start = constant("", 0.0).arrays
    liar = constant("liar", 1e30, samples=10)
    honest = fed_avg(HONEST)["x"]
    mean = fed_avg([clipped(x, start, 5.0) for x in (*HONEST, liar)])["x"]
    assert np.linalg.norm(mean - honest) <= (5.0 + np.linalg.norm(honest)) / 4 + 1e-6


@given(lies)
def test_one_liar_of_four_moves_nobody_further_than_an_honest_client(lie: float) -> None:
    start = constant("", 0.0).arrays
    updates = clipped_to_median([*HONEST, constant("liar", lie)], start)
    longest = max(movement(x, start) for x in HONEST)
    assert all(movement(x, start) <= longest * (1 + 1e-6) for x in updates)
    assert updates[0] is HONEST[0]
    assert clipped_to_median([], start) == []


def test_the_median_bound_by_hand() -> None:
    start = constant("", 0.0).arrays
    updates = clipped_to_median([*HONEST, constant("far", -80.0), constant("near", 0.0)], start)
    assert [x.arrays["x"][0] for x in updates] == pytest.approx([1.0, 2.0, 2.0, -2.0, 0.0])


def test_who_moved_too_far_is_left_out() -> None:
    start = constant("", 0.0).arrays
    liars = [constant("far", -9.0), constant("further", 1e30)]
    assert near([*HONEST, *liars], start) == HONEST  # the median moved by 3: twice that is near
    assert near([*HONEST, constant("", -4.9)], start)[-1].client == ""  # 2.5
    assert near([], start) == []


@given(st.lists(small_arrays((3,)), min_size=1, max_size=7))
def test_half_or_more_are_near(arrays: list[np.ndarray]) -> None:
    start = {"x": np.zeros(3, np.float32)}
    assert 2 * len(near(as_updates(arrays), start)) >= len(arrays)
