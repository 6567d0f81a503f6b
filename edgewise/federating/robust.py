"""Merging where a client may be broken or lie. Every client counts the same, whatever it says of
its samples; what cannot be merged at all, `updates.sift` refuses before.

    median          of every coordinate; holds while liars are fewer than half
    trimmed mean    of every coordinate, its `trim` lowest and highest left out; while liars are at
                    most `trim`                           (both: Yin et al., 1803.01498)
    clipping        nobody moves further than so much     (Sun et al., 1911.07963), such as the
                    median client                         (Andrew et al., 1905.03871)
    near            whoever moved further than twice the median client is left out; so in the
                    manner of CGE, which leaves out the furthest, so many
                                                          (Gupta et al., 2008.04699)

Clients whose data is unlike differ in most coordinates: median and trimmed mean then lose what
only one of them knows, the other two keep it. Their moves are as good as orthogonal after a few
rounds, so directions do not tell who lies: lengths do, if the lie is longer.
"""

import math
from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from edgewise.errors import InputError
from edgewise.federating.updates import Array, Arrays, Update, combination, names_of

NEAR = 2.0  # median movements; honest clients' were at most 1.4 apart (SmolLM2, AdamW)


def coordinate_median(updates: Sequence[Update]) -> dict[str, Array]:
    """Raises ValueError without updates."""
    return {name: _median(_values(updates, name)) for name in names_of(updates)}


def trimmed_mean(updates: Sequence[Update], trim: int) -> dict[str, Array]:
    """Raises InputError where nothing would be left, ValueError without updates."""
    names = names_of(updates)
    if not 0 <= 2 * trim < len(updates):
        raise InputError(
            f"{trim} lowest and {trim} highest of {len(updates)} clients cannot be left out"
        )
    return {name: _trimmed(_values(updates, name), trim) for name in names}


def movement(update: Update, start: Arrays) -> float:
    """How far a client moved: the Euclidean norm over all its arrays."""
    moves = (update.arrays[x].astype(np.float64) - start[x].astype(np.float64) for x in start)
    return math.hypot(*(float(np.linalg.norm(move)) for move in moves))


def clipped(update: Update, start: Arrays, most: float) -> Update:
    """The update, drawn back towards `start` so that its movement is at most `most` (> 0)."""
    moved = movement(update, start)
    if moved <= most:
        return update
    share = most / moved
    return replace(update, arrays=combination((share, update.arrays), (1 - share, start)))


def clipped_to_median(updates: Sequence[Update], start: Arrays) -> list[Update]:
    """Every update, drawn back to the median of all movements: a bound that nobody needs to choose,
    and that liars cannot raise while they are fewer than half. What remains of a lie is its
    direction, at a client's ordinary length."""
    if not updates:
        return []
    most = float(np.median([movement(update, start) for update in updates]))
    return [clipped(update, start, most) for update in updates]


def near(updates: Sequence[Update], start: Arrays) -> list[Update]:
    """Those that moved at most NEAR times as far as the median client. A lie that is no longer
    than that remains, and counts as one client."""
    moved = [movement(update, start) for update in updates]
    most = NEAR * float(np.median(moved)) if moved else 0.0
    return [update for update, far in zip(updates, moved, strict=True) if far <= most]


def _values(updates: Sequence[Update], name: str) -> Array:
    """[clients, ...]"""
    return np.stack([update.arrays[name] for update in updates])


def _median(values: Array) -> Array:
    median: Array = np.median(values.astype(np.float64), axis=0).astype(values.dtype)
    return median


def _trimmed(values: Array, trim: int) -> Array:
    kept = np.sort(values.astype(np.float64), axis=0)[trim : len(values) - trim]
    mean: Array = kept.mean(axis=0).astype(values.dtype)
    return mean
