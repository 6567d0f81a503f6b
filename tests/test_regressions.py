"""Regressions: laws found again from what they generate, and the least squares behind them."""

from collections.abc import Sequence
from itertools import combinations, product

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edgewise.regressions import Fit, features, fit, held_out_error, nonnegative_least_squares

quickly = settings(max_examples=150, derandomize=True, deadline=None)
DECODING = tuple((b, 1, i) for b, i in product((1, 2, 4), (0, 16, 128)))
PROMPTS = tuple((b, s, 0) for b, s in product((1, 2, 4), (2, 16, 64)))
shapes = st.tuples(st.integers(1, 8), st.integers(1, 512), st.integers(0, 2048))
laws = st.lists(st.sampled_from([0.0, 1e-5, 1e-4, 0.01, 0.5]), min_size=5, max_size=5)


def law(coefficients: Sequence[float], shape: tuple[int, int, int], *, decode: bool) -> float:
    """The regression's formula, written out."""
    b, s, i = shape
    if decode:
        alpha, beta, gamma, constant = coefficients
        return alpha * b * (1 + i) + beta * b + gamma * i + constant
    alpha, beta, gamma, delta, constant = coefficients
    return alpha * b + beta * s + gamma * b * s + delta * b * s * s + constant


class TestFeatures:
    def test_of_decoding(self) -> None:
        assert features(3, 1, 10, decode=True) == [33, 3, 10, 1]

    def test_of_prompts(self) -> None:
        assert features(3, 10, 0, decode=False) == [3, 10, 30, 300, 1]


class TestFit:
    @pytest.mark.parametrize("decode", [True, False])
    @pytest.mark.parametrize("only", range(5))
    def test_finds_every_feature_again(self, decode: bool, only: int) -> None:
        """Each feature by itself: were two exchanged, another shape would tell."""
        coefficients = [0.0] * (4 if decode else 5)
        coefficients[only % len(coefficients)] = 0.25
        measured = DECODING if decode else PROMPTS
        found = fit(
            measured, [law(coefficients, x, decode=decode) for x in measured], decode=decode
        )
        assert found.coefficients == pytest.approx(coefficients, abs=1e-9)

    @quickly
    @given(laws, st.booleans(), shapes)
    def test_recovers_what_the_features_generate_at_every_shape(
        self, coefficients: list[float], decode: bool, at: tuple[int, int, int]
    ) -> None:
        coefficients = coefficients[: 4 if decode else 5]
        at = (at[0], 1, at[2]) if decode else (*at[:2], 0)
        measured = DECODING if decode else PROMPTS
        found = fit(
            measured, [law(coefficients, x, decode=decode) for x in measured], decode=decode
        )
        expected = law(coefficients, at, decode=decode)
        assert found.seconds(*at) == pytest.approx(expected, rel=1e-6, abs=1e-9)

    @quickly
    @given(
        st.dictionaries(shapes, st.floats(0, 100), min_size=1, max_size=8),
        st.booleans(),
        shapes,
        shapes,
    )
    def test_is_never_negative_and_more_work_never_takes_less(
        self,
        measured: dict[tuple[int, int, int], float],
        decode: bool,
        one: tuple[int, int, int],
        other: tuple[int, int, int],
    ) -> None:
        found = fit(list(measured), list(measured.values()), decode=decode)
        assert len(found.coefficients) == (4 if decode else 5)
        assert min(found.coefficients) >= 0
        less = tuple(map(min, one, other))
        more = tuple(map(max, one, other))
        assert 0 <= found.seconds(*less) <= found.seconds(*more) * (1 + 1e-12)

    @pytest.mark.parametrize("decode", [True, False])
    def test_one_shape_is_given_back(self, decode: bool) -> None:
        found = fit([(2, 1, 7)], [0.375], decode=decode)
        assert found.seconds(2, 1, 7) == pytest.approx(0.375, rel=1e-9)

    def test_errors_are_relative(self) -> None:
        # Two measurements of one shape: absolute errors would give the mean, 2.
        found = fit([(1, 1, 5)] * 2, [1.0, 3.0], decode=True)
        assert found.seconds(1, 1, 5) == pytest.approx((1 + 1 / 3) / (1 + 1 / 9), rel=1e-9)

    def test_a_fall_is_taken_for_noise_about_a_constant(self) -> None:
        found = fit([(1, 1, 10), (1, 1, 20)], [1.0, 0.9], decode=True)
        constant = (1 + 1 / 0.9) / (1 + 1 / 0.81)
        for context in (0, 10, 20, 1000):
            assert found.seconds(1, 1, context) == pytest.approx(constant, rel=1e-9)

    def test_a_line_that_would_begin_below_zero_begins_at_zero(self) -> None:
        # A line through both would be 0.2 i - 1. The best k i has the least relative error.
        found = fit([(1, 1, 10), (1, 1, 20)], [1.0, 3.0], decode=True)
        slope = (10 + 20 / 3) / (10**2 + (20 / 3) ** 2)
        assert found.seconds(1, 1, 40) == pytest.approx(40 * slope, rel=1e-9)
        assert found.seconds(1, 1, 0) == pytest.approx(0, abs=1e-12)

    def test_times_of_nothing_are_nothing(self) -> None:
        found = fit(DECODING, [0.0] * len(DECODING), decode=True)
        assert found == Fit((0.0,) * 4, True)
        assert found.seconds(9, 1, 999) == 0.0

    def test_microseconds_and_hours_are_found_alike(self) -> None:
        for scale in (1e-6, 1.0, 1e4):
            coefficients = [0.02 * scale, 0.5 * scale, 0.0, 3 * scale]
            seconds = [law(coefficients, x, decode=True) for x in DECODING]
            found = fit(DECODING, seconds, decode=True)
            assert found.coefficients == pytest.approx(coefficients, rel=1e-6, abs=1e-9 * scale)

    def test_a_little_noise_moves_it_a_little(self) -> None:
        rng = np.random.default_rng(0)
        coefficients = [1e-5, 2e-3, 1e-5, 5e-3]
        exact = [law(coefficients, x, decode=True) for x in DECODING]
        noisy = [y * float(rng.uniform(0.98, 1.02)) for y in exact]
        found = fit(DECODING, noisy, decode=True)
        for shape, seconds in zip(DECODING, exact, strict=True):
            assert found.seconds(*shape) == pytest.approx(seconds, rel=0.02)


def squares(rows: np.ndarray, target: np.ndarray, x: np.ndarray) -> float:
    return float(((rows @ x - target) ** 2).sum())


def by_trying_every_subset(rows: np.ndarray, target: np.ndarray) -> float:
    """The least sum of squares: the best free columns are among all subsets of them."""
    best = float((target**2).sum())
    columns = range(rows.shape[1])
    for size in range(1, rows.shape[1] + 1):
        for kept in map(list, combinations(columns, size)):
            x = np.zeros(rows.shape[1])
            x[kept] = np.linalg.lstsq(rows[:, kept], target, rcond=None)[0]
            if x.min() >= 0:
                best = min(best, squares(rows, target, x))
    return best


class TestNonNegativeLeastSquares:
    @pytest.mark.parametrize("seed", range(150))
    def test_is_as_good_as_the_best_of_all_subsets(self, seed: int) -> None:
        rng = np.random.default_rng(seed)
        shape = rng.integers(1, 9), rng.integers(1, 6)
        rows, target = rng.normal(size=shape), rng.normal(size=shape[0])
        rows[:, 0] *= 10 ** rng.uniform(-6, 6)  # columns of any length
        if seed % 3 == 0:
            rows[:, -1] = rows[:, 0]  # and columns that are alike
        found = nonnegative_least_squares(rows, target)
        assert found.min() >= 0
        best = by_trying_every_subset(rows, target)
        assert squares(rows, target, found) == pytest.approx(best, rel=1e-8, abs=1e-12)

    def test_is_ordinary_least_squares_where_that_is_positive(self) -> None:
        rng = np.random.default_rng(0)
        for _ in range(50):
            rows = rng.uniform(0, 1, (12, 4))
            target = rows @ rng.uniform(1, 2, 4) + rng.normal(scale=0.01, size=12)
            plain = np.linalg.lstsq(rows, target, rcond=None)[0]
            assert plain.min() > 0
            assert nonnegative_least_squares(rows, target) == pytest.approx(plain, rel=1e-9)

    def test_of_one_column_is_the_projection(self) -> None:
        rows = np.array([[1.0], [2.0]])
        assert nonnegative_least_squares(rows, np.array([3.0, 4.0])) == pytest.approx([11 / 5])
        assert nonnegative_least_squares(rows, np.array([-3.0, 1.0])) == pytest.approx([0.0])

    def test_a_column_of_zeros_gets_nothing(self) -> None:
        rows = np.array([[0.0, 1.0], [0.0, 1.0]])
        assert nonnegative_least_squares(rows, np.array([1.0, 2.0])) == pytest.approx([0, 1.5])

    def test_leaves_its_arguments_alone(self) -> None:
        rows, target = np.array([[2.0, 0.0], [1.0, 0.0]]), np.array([1.0, 5.0])
        before = rows.copy(), target.copy()
        nonnegative_least_squares(rows, target)
        assert (rows == before[0]).all()
        assert (target == before[1]).all()


class TestHeldOutError:
    @pytest.mark.parametrize(("decode", "measured"), [(True, DECODING), (False, PROMPTS)])
    def test_is_nothing_where_the_law_holds(
        self, decode: bool, measured: tuple[tuple[int, int, int], ...]
    ) -> None:
        coefficients = [1e-4, 2e-3, 1e-5, 5e-3, 1e-3][: 4 if decode else 5]
        seconds = [law(coefficients, x, decode=decode) for x in measured]
        errors = held_out_error(measured, seconds, decode=decode)
        assert len(errors) == len(measured)
        assert max(errors) < 1e-6

    def test_judges_each_shape_by_a_fit_to_the_others(self) -> None:
        measured = [(1, 1, 10), (1, 1, 20), (2, 1, 10), (2, 1, 40)]
        seconds = [1.0, 1.5, 2.5, 3.0]
        expected = []
        for at, (shape, actual) in enumerate(zip(measured, seconds, strict=True)):
            others = measured[:at] + measured[at + 1 :]
            found = fit(others, seconds[:at] + seconds[at + 1 :], decode=True)
            expected.append(abs(found.seconds(*shape) - actual) / actual)
        assert held_out_error(measured, seconds, decode=True) == pytest.approx(expected)

    def test_of_two_shapes_is_known_by_hand(self) -> None:
        # From one shape the law is what went in there, in the feature that grows with nothing
        # else: the same context and batch, measured twice.
        errors = held_out_error([(1, 1, 8)] * 2, [1.0, 4.0], decode=True)
        assert errors == pytest.approx([3 / 1, 3 / 4])
