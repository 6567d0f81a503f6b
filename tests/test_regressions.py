"""Regressions: laws found again from what they generate, and the least squares behind them."""

import dataclasses
import math
from collections.abc import Callable, Sequence
from itertools import combinations, product

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edgewise.regressions import Fit, Law, features, fit, nonnegative_least_squares

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
        again = fit(
            measured, [law(coefficients, x, decode=decode) for x in measured], decode=decode
        )
        assert again.laws == (Law(pytest.approx(coefficients, abs=1e-9)),)

    @quickly
    @given(laws, st.booleans(), shapes)
    def test_recovers_what_the_features_generate_at_every_shape(
        self, coefficients: list[float], decode: bool, at: tuple[int, int, int]
    ) -> None:
        coefficients = coefficients[: 4 if decode else 5]
        at = (at[0], 1, at[2]) if decode else (*at[:2], 0)
        measured = DECODING if decode else PROMPTS
        fitted = fit(
            measured, [law(coefficients, x, decode=decode) for x in measured], decode=decode
        )
        expected = law(coefficients, at, decode=decode)
        assert fitted.seconds(*at) == pytest.approx(expected, rel=1e-6, abs=1e-9)

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
        fitted = fit(list(measured), list(measured.values()), decode=decode)
        less = tuple(map(min, one, other))
        more = tuple(map(max, one, other))
        for part in (Fit((x,), decode) for x in fitted.laws):
            assert len(part.laws[0].coefficients) == (4 if decode else 5)
            assert min(part.laws[0].coefficients) >= 0
            below = dataclasses.replace(part.laws[0], most_tokens=math.inf)
            part = Fit((below,), decode)
            assert 0 <= part.seconds(*less) <= part.seconds(*more) * (1 + 1e-12)

    @pytest.mark.parametrize("decode", [True, False])
    def test_one_shape_is_given_back(self, decode: bool) -> None:
        fitted = fit([(2, 1, 7)], [0.375], decode=decode)
        assert fitted.seconds(2, 1, 7) == pytest.approx(0.375, rel=1e-9)

    def test_errors_are_relative(self) -> None:
        # Two measurements of one shape: absolute errors would give the mean, 2.
        fitted = fit([(1, 1, 5)] * 2, [1.0, 3.0], decode=True)
        assert fitted.seconds(1, 1, 5) == pytest.approx((1 + 1 / 3) / (1 + 1 / 9), rel=1e-9)

    def test_a_fall_is_taken_for_noise_about_a_constant(self) -> None:
        fitted = fit([(1, 1, 10), (1, 1, 20)], [1.0, 0.9], decode=True)
        constant = (1 + 1 / 0.9) / (1 + 1 / 0.81)
        for context in (0, 10, 20, 1000):
            assert fitted.seconds(1, 1, context) == pytest.approx(constant, rel=1e-9)

    def test_a_line_that_would_begin_below_zero_begins_at_zero(self) -> None:
        # A line through both would be 0.2 i - 1. The best k i has the least relative error.
        fitted = fit([(1, 1, 10), (1, 1, 20)], [1.0, 3.0], decode=True)
        slope = (10 + 20 / 3) / (10**2 + (20 / 3) ** 2)
        assert fitted.seconds(1, 1, 40) == pytest.approx(40 * slope, rel=1e-9)
        assert fitted.seconds(1, 1, 0) == pytest.approx(0, abs=1e-12)

    def test_times_of_nothing_are_nothing(self) -> None:
        fitted = fit(DECODING, [0.0] * len(DECODING), decode=True)
        assert fitted == Fit((Law((0.0,) * 4),), True, 0.0)
        assert fitted.seconds(9, 1, 999) == 0.0

    def test_microseconds_and_hours_are_found_alike(self) -> None:
        for scale in (1e-6, 1.0, 1e4):
            coefficients = [0.02 * scale, 0.5 * scale, 0.0, 3 * scale]
            seconds = [law(coefficients, x, decode=True) for x in DECODING]
            fitted = fit(DECODING, seconds, decode=True)
            assert fitted.laws[0].coefficients == pytest.approx(
                coefficients, rel=1e-6, abs=1e-9 * scale
            )

    def test_a_little_noise_moves_it_a_little(self) -> None:
        rng = np.random.default_rng(0)
        coefficients = [1e-5, 2e-3, 1e-5, 5e-3]
        exact = [law(coefficients, x, decode=True) for x in DECODING]
        noisy = [y * float(rng.uniform(0.98, 1.02)) for y in exact]
        fitted = fit(DECODING, noisy, decode=True)
        for shape, seconds in zip(DECODING, exact, strict=True):
            assert fitted.seconds(*shape) == pytest.approx(seconds, rel=0.02)


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
        fitted = nonnegative_least_squares(rows, target)
        assert fitted.min() >= 0
        best = by_trying_every_subset(rows, target)
        assert squares(rows, target, fitted) == pytest.approx(best, rel=1e-8, abs=1e-12)

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


def prompts(law: Callable[[int], float], noise: float = 0.0) -> dict[tuple[int, int, int], float]:
    """Seconds of prompts by the number of their tokens."""
    rng = np.random.default_rng(0)
    shapes = [(b, s, 0) for s in (4, 12, 16, 20, 32, 40, 64, 96, 200) for b in (1, 2, 4)]
    return {x: law(x[0] * x[1]) * float(1 + noise * rng.normal()) for x in shapes}


class TestSwitches:
    @pytest.mark.parametrize("switch", [16, 32, 64])
    def test_two_laws_are_told_apart(self, switch: int) -> None:
        """Steep and small up to the switch, flat and large beyond, as kernels and torch are."""

        def law(tokens: int) -> float:
            return 1 + 0.5 * tokens if tokens <= switch else 10 + 0.1 * tokens

        measured = prompts(law)
        both = fit(list(measured), list(measured.values()), decode=False)
        assert [x.most_tokens for x in both.laws] == [switch, math.inf]
        for tokens in (1, 10, switch, switch + 1, 300):
            assert both.seconds(1, tokens, 0) == pytest.approx(law(tokens), rel=1e-6)

    def test_noise_is_no_switch(self) -> None:
        for seed in range(20):
            rng = np.random.default_rng(seed)
            noisy = {
                x: y * float(1 + 0.05 * rng.normal()) for x, y in prompts(lambda t: 1 + t).items()
            }
            assert len(fit(list(noisy), list(noisy.values()), decode=False).laws) == 1, seed

    def test_takes_three_shapes_on_each_side(self) -> None:
        few = {
            (1, 4, 0): 1.0,
            (1, 8, 0): 2.0,
            (1, 100, 0): 9.0,
            (1, 200, 0): 9.5,
            (1, 250, 0): 10.0,
        }
        assert len(fit(list(few), list(few.values()), decode=False).laws) == 1


class TestError:
    def test_is_nothing_where_the_law_holds(self) -> None:
        coefficients = [1e-4, 2e-3, 1e-5, 5e-3]
        seconds = [law(coefficients, x, decode=True) for x in DECODING]
        assert fit(DECODING, seconds, decode=True).error == pytest.approx(0, abs=1e-9)

    def test_is_the_standard_error_by_hand(self) -> None:
        # One shape four times: the constant of least relative error, one coefficient, three spare.
        seconds = [1.0, 2.0, 2.0, 4.0]
        best = sum(1 / x for x in seconds) / sum(1 / x**2 for x in seconds)
        squares = sum((1 - best / x) ** 2 for x in seconds)
        error = fit([(1, 1, 8)] * 4, seconds, decode=True).error
        assert error == pytest.approx(math.sqrt(squares / 3))

    @pytest.mark.parametrize("noise", [0.03, 0.1])
    def test_is_the_noise_that_was_put_in(self, noise: float) -> None:
        measured = prompts(lambda tokens: 1 + 0.5 * tokens, noise)
        error = fit(list(measured), list(measured.values()), decode=False).error
        assert error == pytest.approx(noise, rel=0.4)

    def test_is_not_known_of_a_law_through_all_its_shapes(self) -> None:
        assert fit([(1, 1, 8)], [1.0], decode=True).error is None
        assert fit([(1, 1, 8), (1, 1, 16)], [1.0, 1.5], decode=True).error is None
        assert fit([(1, 1, 8), (1, 1, 16), (1, 1, 32)], [1, 1.5, 2.0], decode=True).error is None
