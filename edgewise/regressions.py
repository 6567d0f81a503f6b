"""Seconds of a layer as a function of the work: LLM-PQ's phase-aware regression.

Per device, kind of layer, scheme and phase (arXiv 2403.01136; the feature lists are those of its
published code), with b sequences, s new tokens and i cached tokens each:

    prefill   seconds ~ [b, s, b s, b s (s + 2 i), 1]
    decode    seconds ~ [b (1 + i), b, i, 1]

(The published prefill has b s^2, for fresh prompts. Behind i others, s tokens look at i + s / 2
each.)

Coefficients are not negative, so a prediction never is, and longer never means quicker. Errors are
relative: each row is divided by its seconds.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]


def features(sequences: float, tokens: float, context: float, *, decode: bool) -> list[float]:
    if decode:
        return [sequences * (1 + context), sequences, context, 1.0]
    looked = tokens * (tokens + 2 * context)
    return [sequences, tokens, sequences * tokens, sequences * looked, 1.0]


@dataclass(frozen=True, slots=True)
class Fit:
    """Coefficients of one regression."""

    coefficients: tuple[float, ...]
    decode: bool

    def seconds(self, sequences: int, tokens: int, context: int) -> float:
        row = features(sequences, tokens, context, decode=self.decode)
        return sum(c * x for c, x in zip(self.coefficients, row, strict=True))


def fit(shapes: Sequence[tuple[int, int, int]], seconds: Sequence[float], *, decode: bool) -> Fit:
    """Least squares of the relative error over (sequences, tokens, context) shapes."""
    rows = np.array([features(b, s, i, decode=decode) for b, s, i in shapes])
    weights = 1 / np.maximum(np.array(seconds), 1e-9)
    solution = nonnegative_least_squares(rows * weights[:, None], np.array(seconds) * weights)
    return Fit(tuple(float(c) for c in solution), decode)


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
    found: Array = x / scale
    return found


def held_out_error(
    shapes: Sequence[tuple[int, int, int]], seconds: Sequence[float], *, decode: bool
) -> list[float]:
    """Relative errors of each shape when the fit has not seen it (leave one out)."""
    errors = []
    for skip in range(len(shapes)):
        kept = [i for i in range(len(shapes)) if i != skip]
        found = fit([shapes[i] for i in kept], [seconds[i] for i in kept], decode=decode)
        off = abs(found.seconds(*shapes[skip]) - seconds[skip])
        errors.append(off / max(seconds[skip], 1e-6))
    return errors
