"""Means against hand arithmetic and whole products."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgewise.errors import InputError
from edgewise.federating.averaging import (
    exact_average,
    fed_avg,
    proximal_gradient,
    with_momentum,
)
from edgewise.federating.updates import Update
from tests.federating.updates import constant, drawn_updates, same, small_arrays

ROWS, COLUMNS, RANK = 40, 24, 4


def test_the_mean_goes_by_samples() -> None:
    mean = fed_avg([constant("a", 1.0, samples=1), constant("b", 5.0, samples=3)])
    assert same(mean, constant("", 4.0).arrays)  # (1 * 1 + 3 * 5) / 4
    assert mean["x"].dtype == np.float32


def test_momentum_needs_no_velocity_but_what_two_rounds_came_to() -> None:
    means = [x.arrays for x in drawn_updates(6)]
    before = last = means[0]
    truth = {name: x.astype(np.float64) for name, x in last.items()}
    velocity = dict.fromkeys(truth, 0.0)
    for mean in means[1:]:
        before, last = last, with_momentum(mean, last, before, 0.7)
        velocity = {name: 0.7 * velocity[name] + mean[name] - x for name, x in truth.items()}
        truth = {name: x + velocity[name] for name, x in truth.items()}
        assert same(last, truth, 1e-5)


@given(st.lists(small_arrays((3,)), min_size=1, max_size=6), st.data())
def test_the_mean_is_numpy_s(arrays: list[np.ndarray], data: st.DataObject) -> None:
    samples = [data.draw(st.integers(1, 1000)) for _ in arrays]
    updates = [
        Update(str(i), n, {"x": x}) for i, (n, x) in enumerate(zip(samples, arrays, strict=True))
    ]
    truth = np.average(np.stack(arrays).astype(np.float64), axis=0, weights=samples)
    assert np.allclose(fed_avg(updates)["x"], truth, rtol=1e-6, atol=1e-6)


def private_updates(clients: int, seed: int) -> tuple[list[Update], np.ndarray, np.ndarray]:
    """Updates of one M, and U and D that all share."""
    generator = np.random.default_rng(seed)
    up, down = generator.standard_normal((ROWS, RANK)), generator.standard_normal((RANK, COLUMNS))
    middles = generator.standard_normal((clients, RANK, RANK)).astype(np.float32)
    samples = generator.integers(1, 100, clients)
    return (
        [
            Update(str(i), int(n), {"0.q.middle": m})
            for i, (n, m) in enumerate(zip(samples, middles, strict=True))
        ],
        up / RANK**0.5,
        down / COLUMNS**0.5,
    )


def mean_of_products(updates: list[Update], products: list[np.ndarray]) -> np.ndarray:
    return np.average(np.stack(products), axis=0, weights=[x.samples for x in updates])


@pytest.mark.parametrize("seed", range(10))
def test_the_mean_of_middles_is_the_mean_of_the_products(seed: int) -> None:
    updates, up, down = private_updates(7, seed)
    truth = mean_of_products(updates, [up @ x.arrays["0.q.middle"] @ down for x in updates])
    merged = up @ exact_average(updates)["0.q.middle"] @ down
    assert np.abs(merged - truth).max() <= 1e-6 * np.abs(truth).max()


def test_only_middles_have_an_exact_mean() -> None:
    factor = replace(constant("d", 1.0), arrays={"0.q.up": np.zeros((3, 2), np.float32)})
    with pytest.raises(InputError, match=r"client 'd' sends 0\.q\.up"):
        exact_average([factor])


def test_the_proximal_gradient_is_the_slope_of_its_term() -> None:
    arrays, start = (x.arrays for x in drawn_updates(2))
    strength, step = 0.3, 1e-3

    def term(shift: float) -> float:
        """mu / 2 |w - w_start|^2, one number of w shifted."""
        moved = {x: y.astype(np.float64) for x, y in arrays.items()}
        moved["0.q.middle"][1, 2] += shift
        return strength / 2 * sum(float(((moved[x] - start[x]) ** 2).sum()) for x in start)

    slope = (term(step) - term(-step)) / (2 * step)
    assert proximal_gradient(arrays, start, strength)["0.q.middle"][1, 2] == pytest.approx(
        slope, rel=1e-5
    )
