"""Named arrays, what a client sends of them at the end of a round, and why it may be refused."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]  # of floating point numbers
Arrays = Mapping[str, Array]


@dataclass(frozen=True, slots=True)
class Update:
    """`arrays` are a client's own after its training, not by how much they changed; `samples` is
    on how many it trained."""

    client: str
    samples: int
    arrays: Arrays


def combination(*terms: tuple[float, Arrays]) -> dict[str, Array]:
    """The sum of factor * arrays, name by name, added up in float64. New arrays of the first term's
    types, which nobody can write to: what shares them cannot change by accident."""
    first = terms[0][1]
    sums = {}
    for name, like in first.items():
        total = np.zeros(like.shape)
        for factor, arrays in terms:
            total += factor * arrays[name].astype(np.float64)
        sums[name] = total.astype(like.dtype)
        sums[name].setflags(write=False)
    return sums


def sift(updates: Iterable[Update], start: Arrays) -> tuple[list[Update], list[str]]:
    """The updates that may be merged into what comes after `start`, by client, and of each other
    one who sent it and why it is refused."""
    ordered = sorted(updates, key=lambda update: update.client)
    faults = [fault_of(update, start) for update in ordered]
    fit = [update for update, fault in zip(ordered, faults, strict=True) if fault is None]
    return fit, [
        f"client '{update.client}' is refused: {fault}"
        for update, fault in zip(ordered, faults, strict=True)
        if fault is not None
    ]


def fault_of(update: Update, start: Arrays) -> str | None:
    """Why an update cannot follow `start`: other names, shapes or types, numbers that are not
    finite, no samples. None where it can."""
    if update.samples < 1:
        return f"it says that it trained on {update.samples} samples"
    if others := sorted(update.arrays.keys() ^ start.keys()):
        has = "missing" if others[0] in start else "not asked for"
        return f"{others[0]} is {has}"
    return next(filter(None, (_array_fault(update, start, name) for name in start)), None)


def _array_fault(update: Update, start: Arrays, name: str) -> str | None:
    array, like = update.arrays[name], start[name]
    if array.shape != like.shape:
        return f"{name} is {list(array.shape)}, not {list(like.shape)}"
    if array.dtype != like.dtype:
        return f"{name} is of type {array.dtype}, not {like.dtype}"
    if not np.isfinite(array).all():
        return f"{name} holds what is no finite number"
    return None


def names_of(updates: Sequence[Update]) -> list[str]:
    """Of the arrays that are to be merged. Raises ValueError where there are no updates."""
    if not updates:
        raise ValueError("there are no updates to merge")
    return list(updates[0].arrays)
