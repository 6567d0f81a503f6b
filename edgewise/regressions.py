"""Seconds of a layer as a function of the work: LLM-PQ's phase-aware regression.

Per device, kind of layer, scheme and phase (arXiv 2403.01136; the feature lists are those of its
published code), with b sequences, s new tokens and i cached tokens each:

    prefill   seconds ~ [b, s, b s, b s (s + 2 i), 1]
    decode    seconds ~ [b (1 + i), b, i, 1]

(The published prefill has b s^2, for fresh prompts. Behind i others, s tokens look at i + s / 2
each.)

Coefficients are not negative, so a prediction never is, and longer never means quicker. Errors are
relative: each row is divided by its seconds.

Kernels go another way from some number of tokens in a step on (docs/kernels.md), b s of them: where
the law breaks there, two laws hold, one up to the switch and one beyond. Which switch, if any, is
what leaves the least error: the standard error of a regression, sqrt(sum of squares / (shapes -
coefficients that are not 0)), which more laws do not lower by themselves.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import compress

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]
Shape = tuple[int, int, int]  # sequences, new tokens, cached tokens

SWITCHES = (16, 32, 64)  # tokens of a step up to which kernels may go one way
LEAST_SHAPES = 3  # on each side of a switch
LEAST_SPARE = 2  # shapes beyond the coefficients: one may lie on the law by chance
GOOD = 0.02  # an error as of single timings: one law is enough
BELIEVED = 0.75  # a switch that leaves more of the error than this may be noise


def features(sequences: float, tokens: float, context: float, *, decode: bool) -> list[float]:
    if decode:
        return [sequences * (1 + context), sequences, context, 1.0]
    looked = tokens * (tokens + 2 * context)
    return [sequences, tokens, sequences * tokens, sequences * looked, 1.0]


@dataclass(frozen=True, slots=True)
class Law:
    """Coefficients of one regression, for steps of up to `most_tokens`."""

    coefficients: tuple[float, ...]
    most_tokens: float = math.inf


@dataclass(frozen=True, slots=True)
class Fit:
    """One law, or two. `error` is the relative error to expect; None where there are not shapes
    enough to tell."""

    laws: tuple[Law, ...]
    decode: bool
    error: float | None = None

    def seconds(self, sequences: int, tokens: int, context: int) -> float:
        law = next(x for x in self.laws if sequences * tokens <= x.most_tokens)
        row = features(sequences, tokens, context, decode=self.decode)
        return sum(c * x for c, x in zip(law.coefficients, row, strict=True))


def fit(shapes: Sequence[Shape], seconds: Sequence[float], *, decode: bool) -> Fit:
    """Least squares of the relative error over (sequences, tokens, context) shapes."""
    whole = _fit([(math.inf, shapes, seconds)], decode)
    if whole.error is None or whole.error < GOOD:
        return whole
    divided = (_divided(shapes, seconds, decode, switch) for switch in SWITCHES)
    known = [(x.error, x) for x in divided if x is not None and x.error is not None]
    error, best = min(known, key=lambda x: x[0], default=(whole.error, whole))
    return best if error < BELIEVED * whole.error else whole


def _divided(
    shapes: Sequence[Shape], seconds: Sequence[float], decode: bool, switch: int
) -> Fit | None:
    """With a law up to the switch and one beyond; None where one has too few shapes."""
    small = [b * s <= switch for b, s, _ in shapes]
    large = [not x for x in small]
    if min(sum(small), sum(large)) < LEAST_SHAPES:
        return None
    sides = (switch, small), (math.inf, large)
    return _fit([(x, [*compress(shapes, y)], [*compress(seconds, y)]) for x, y in sides], decode)


def _fit(sides: Sequence[tuple[float, Sequence[Shape], Sequence[float]]], decode: bool) -> Fit:
    """A law for each side: the shapes of up to so many tokens, and their seconds."""
    laws, squares, spare = [], 0.0, 0
    for most_tokens, shapes, seconds in sides:
        weights = 1 / np.maximum(np.array(seconds), 1e-9)
        rows = np.array([features(*x, decode=decode) for x in shapes]) * weights[:, None]
        target = np.array(seconds) * weights
        solution = nonnegative_least_squares(rows, target)
        laws.append(Law(tuple(float(c) for c in solution), most_tokens))
        squares += float(((target - rows @ solution) ** 2).sum())
        spare += len(shapes) - int((solution > 0).sum())
    return Fit(tuple(laws), decode, math.sqrt(squares / spare) if spare >= LEAST_SPARE else None)


def nonnegative_least_squares(rows: Array, target: Array) -> Array:
    """min ||rows x - target|| with x >= 0 (Lawson and Hanson 1974), on columns of equal length."""
    scale = np.linalg.norm(rows, axis=0)
    scale[scale == 0] = 1.0
    a, x = rows / scale, np.zeros(rows.shape[1])
    free = np.zeros(len(x), dtype=bool)
    for _ in range(10 * len(x)):
        gradient = a.T @ (target - a @ x)
        if free.all() or gradient[~free].max() <= 1e-10:
            break
        free[np.argmax(np.where(free, -np.inf, gradient))] = True
        while True:
            trial = np.zeros_like(x)
            trial[free] = np.linalg.lstsq(a[:, free], target, rcond=None)[0]
            if trial[free].min() > 0:
                break
            # Go towards the trial as far as nothing turns negative, and fix what reached zero.
            down = free & (trial <= 0)
            step = np.min(x[down] / np.maximum(x[down] - trial[down], 1e-300))
            x = x + step * (trial - x)
            free &= x > 1e-14
            x[~free] = 0.0
            if not free.any():
                break
        x = trial if free.any() else np.zeros_like(x)
    solution: Array = x / scale
    return solution
