"""Labels of a resource-constrained shortest path, one a row of arrays (see edgeshard_exact.py)."""

import numpy as np

from edgewise.planning.tables import Floats, Ints

MOST_SUMS = 4096


def subset_sums(size: Ints) -> list[Ints | int]:
    """For every layer, what subsets of the layers after it can take; their total if too many."""
    sums: list[Ints | int] = [np.zeros(1, dtype=np.int64)]
    for i in range(len(size) - 1, 0, -1):
        last = sums[-1]
        if isinstance(last, int) or len(last) > MOST_SUMS:
            sums.append(int(size[i:].sum()))
        else:
            sums.append(np.unique(np.concatenate((last, last + size[i]))))
    return sums[::-1]


def useful(left: Ints, sums: Ints | int) -> Ints:
    """Memory left, rounded down to what the remaining layers can fill."""
    if isinstance(sums, int):
        return np.minimum(left, sums)
    return sums[np.searchsorted(sums, left, side="right") - 1]


def canonical(left: Ints, device: Ints, groups: tuple[tuple[int, ...], ...]) -> Ints:
    """Memory left with equal devices sorted, the current device before its equals."""
    key = left.copy()
    for group in groups:
        if len(group) > 1:
            here = np.isin(device, group)
            members = left[:, group]
            current = np.where(device[:, None] == np.array(group), np.iinfo(np.int64).max, members)
            key[:, group] = -np.sort(-current, axis=1)
            key[here, group[0]] = left[here, device[here]]
    return key


def undominated(group: Ints, cost: Floats, key: Ints, most: int) -> Ints:
    """Indices, in order, of labels that no other of their group beats in cost and every key; once
    `most` are found, the rest unseen."""
    alive, kept = np.ones(len(cost), dtype=bool), 0
    for a in range(len(cost)):
        if not alive[a]:
            continue
        kept += 1
        if kept > most:
            break
        beaten = (group == group[a]) & (cost >= cost[a]) & (key <= key[a]).all(axis=1)
        beaten[a] = False
        alive &= ~beaten
    return np.flatnonzero(alive)


def trace(history: list[tuple[Ints, Ints]], at: int) -> list[int]:
    path = []
    for parent, device in reversed(history):
        path.append(int(device[at]))
        at = int(parent[at])
    return path[::-1]
