"""Routes from an order of slots: a dynamic program chooses cuts and who is skipped, a local search
moves slots in the order."""

import time as clock

import numpy as np

from edgewise.planning.joint.arrays import Floats
from edgewise.planning.joint.paths import Path
from edgewise.planning.joint.relax import Chain
from edgewise.planning.joint.slots import Slots


def order_dp(order: list[int], table: Floats, chain: Chain, slots: Slots) -> tuple[float, Path]:
    """Best cuts for slots in this order, any of them left out unless required. O(P N (P + N))."""
    n = table.shape[1] - 1
    seq = np.array(order)
    size = len(seq)
    must = np.concatenate([[0], np.cumsum(slots.required[seq])])
    hop = chain.hop[np.ix_(seq, seq)]
    hop = np.where(must[None, :-1] > must[1:, None], np.inf, hop)  # skips a required one
    begin = np.where(must[:-1] == 0, chain.start[seq], np.inf)
    done = np.full((size, n + 1), np.inf)
    came = np.zeros((size, n + 1), int)
    first = np.zeros((size, n + 1), int)
    cols = np.arange(n + 1)
    for q in range(size):
        enter = np.full(n + 1, np.inf)
        if q:
            reach = done[:q] + hop[:q, q, None]
            came[q] = reach.argmin(0)
            enter = reach[came[q], cols] + chain.enter[seq[q]]
        enter[0] = begin[q]
        total = enter[:, None] + table[seq[q]]
        first[q] = total.argmin(0)
        done[q] = total[first[q], cols]
    final = done[:, n] + chain.end[seq] + np.where(must[1:] < must[-1], np.inf, 0.0)
    q = int(final.argmin())
    value = float(final[q])
    path: Path = []
    b = n
    while np.isfinite(value) and b > 0:
        a = int(first[q, b])
        path.append((int(seq[q]), a, b))
        q, b = int(came[q, a]), a
    return value, path[::-1]


def order_of(path: Path, slots: Slots) -> list[int]:
    """First visits of a path in order, then every slot that is missing; source ends at the ends."""
    room = slots.count.copy()
    head = [int(k) for k in np.flatnonzero(slots.starts)]
    tail = [int(k) for k in np.flatnonzero(slots.ends)]
    middle: list[int] = []
    for k, _, _ in path:
        if k not in head + tail and room[k] > 0:
            middle.append(k)
            room[k] -= 1
    rest = [k for k in range(len(room)) if k not in head + tail and k not in middle]
    return [*head, *middle, *rest, *tail]


def improve(
    order: list[int],
    table: Floats,
    chain: Chain,
    slots: Slots,
    deadline: float,
    good: float = -np.inf,
) -> tuple[float, Path]:
    """Move one slot at a time to where it helps most, until nothing does or `good` is reached."""
    value, path = order_dp(order, table, chain, slots)
    moved = True
    while moved and value > good:
        moved = False
        for k in _movable(order, path, slots):
            at = order.index(k)
            rest = order[:at] + order[at + 1 :]
            found, place = insertion(rest, k, table, chain, slots)
            if found < value - 1e-12 * abs(value) or (np.isinf(value) and np.isfinite(found)):
                new = [*rest[:place], k, *rest[place:]]
                better, route = order_dp(new, table, chain, slots)
                if better < value - 1e-12 * abs(better):
                    value, path, order, moved = better, route, new, True
            if clock.perf_counter() > deadline or value <= good:
                return value, path
    return value, path


def _movable(order: list[int], path: Path, slots: Slots) -> list[int]:
    used = {k for k, _, _ in path}
    free = [k for k in order if not slots.starts[k] and not slots.ends[k]]
    return sorted(dict.fromkeys(free), key=lambda k: k not in used)


def insertion(
    rest: list[int], k: int, table: Floats, chain: Chain, slots: Slots
) -> tuple[float, int]:
    """Best place for slot k among `rest`, used there, from prefix and suffix tables."""
    done, after = _prefix(rest, table, chain, slots), _suffix(rest, table, chain, slots)
    n1 = table.shape[1]
    seq = np.array(rest)
    out, into = chain.hop[seq, k], chain.hop[k, seq]
    low = 1 if slots.starts[rest[0]] else 0
    high = len(rest) - (1 if slots.ends[rest[-1]] else 0)
    best, place = np.inf, low
    for at in range(low, high + 1):
        enter = np.full(n1, np.inf)
        if at:
            enter = (done[:at] + out[:at, None]).min(0) + chain.enter[k]
        enter[0] = chain.start[k]
        leave = np.full(n1, np.inf)
        if at < len(rest):
            leave = (after[at:] + into[at:, None]).min(0)
        leave[n1 - 1] = chain.end[k]
        value = float(((enter[:, None] + table[k]).min(0) + leave).min())
        if value < best:
            best, place = value, at
    return best, place


def _prefix(order: list[int], table: Floats, chain: Chain, slots: Slots) -> Floats:
    """[P, N+1] least cost of layers [0, b) with position q as the last used."""
    n1 = table.shape[1]
    done = np.full((len(order), n1), np.inf)
    for q, k in enumerate(order):
        enter = np.full(n1, np.inf)
        if q:
            enter = (done[:q] + chain.hop[order[:q], k][:, None]).min(0) + chain.enter[k]
        enter[0] = chain.start[k]
        done[q] = (enter[:, None] + table[k]).min(0)
    return done


def _suffix(order: list[int], table: Floats, chain: Chain, slots: Slots) -> Floats:
    """[P, N+1] least cost of layers [a, N) beginning on position q, its step included."""
    n1 = table.shape[1]
    after = np.full((len(order), n1), np.inf)
    for q in range(len(order) - 1, -1, -1):
        k = order[q]
        leave = np.full(n1, np.inf)
        if q + 1 < len(order):
            leave = (after[q + 1 :] + chain.hop[k, order[q + 1 :]][:, None]).min(0)
        leave[n1 - 1] = chain.end[k]
        after[q] = (table[k] + leave[None, :]).min(1) + chain.enter[k]
        after[q, n1 - 1] = np.inf
    return after
