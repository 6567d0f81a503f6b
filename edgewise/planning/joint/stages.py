"""What a stage costs at least at a price l of loss, on a device of its own:

    T[g,a,b] = min over schemes of layers a to b - 1 of  sum (seconds[s,i,g] + l loss[s,i])
               s.t.  sum size[s,i] <= room[g],  sum decode[s,i,g] <= limit - step[g]

with whole schemes, by dynamic programming over how much of a resource is taken beyond the least, in
units to which every excess is rounded down; one resource at a time, or both on average, and the
largest of these bounds. `limit` is on a device's period, infinite where only the round trip counts.
"""

from functools import partial

import numpy as np

from edgewise.planning.joint.view import View
from edgewise.planning.tables import INFINITY, Bools, Floats, Ints

FINE = (1, 2, 4, 8)  # parts of the least excess that may be the unit
MOST, COARSE = 400, 200  # units of a resource; the fewer, the weaker the bound
NEVER = 2**40  # units of a scheme that a layer cannot have


def stage_costs(view: View, price: float, limit: float = INFINITY, most: int = MOST) -> Floats:
    """T in the view's unit, infinite where the layers do not fit."""
    first, tables = np.array([group[0] for group in view.groups]), view.tables
    cost = view.costs.seconds[:, :, first] / view.unit + price * view.scored[:, :, None]
    cost = np.where(view.usable[:, :, first], cost, INFINITY)
    room = np.maximum(tables.room[first].astype(float), 1.0)
    more = float(tables.shared.max()) / room
    size = tables.size[:, :, None] / room
    only = tables.allowed[:, first] & (tables.allowed.sum(axis=1) == 1)[:, None]
    packed = partial(_packed, most)
    table = np.stack([packed(*x) for x in zip(cost.T, size.T, only.T, more, strict=True)])
    if limit < INFINITY:
        part = tables.decode[:, :, first] / np.maximum(limit - tables.step[first], 1e-300)
        for taken, left in ((part, 0 * more), ((part + size) / 2, more / 2)):
            bound = [packed(*x) for x in zip(cost.T, taken.T, only.T, left, strict=True)]
            table = np.maximum(table, np.stack(bound))
    return table


def _packed(most: int, cost: Floats, part: Floats, only: Bools, more: float) -> Floats:
    """[a, b]: the least cost of layers a to b - 1 that together take at most all of a device, where
    layer i in scheme s has cost[i, s] and takes part[i, s]; all layers together may take `more`.
    Those that may lie there `only` take their least of it in any case."""
    layers = len(cost)
    part = np.where(np.isfinite(cost), part, INFINITY)
    low = part.min(axis=1)
    excess, unit = _in_units(part - np.where(np.isfinite(low), low, 0.0)[:, None], most)
    free = np.where(np.isfinite(low) & ~only, low, 0.0)
    taken, room = np.concatenate(([0.0], free.cumsum())), 1 + 1e-12 - float(low[only].sum())
    table = np.full((layers + 1, layers + 1), INFINITY)
    width = 1 + int(max(1 + more - low.min(), 0.0) / unit)
    least, a = np.full((layers, width), INFINITY), 0  # [a, c]: with at most c units of excess
    for b in range(1, layers + 1):
        while a < b and (taken[b] - taken[a] > room + more or low[b - 1] == INFINITY):
            a += 1
        least[b - 1] = 0.0
        best = np.full((b - a, width), INFINITY)
        for value, units in zip(cost[b - 1], excess[b - 1], strict=True):
            if units < width:
                with_it = least[a:b, : width - units] + value
                np.minimum(best[:, units:], with_it, out=best[:, units:])
        least[a:b] = best
        left = room - (taken[b] - taken[a:b]) + np.where(b - np.arange(a, b) == layers, more, 0.0)
        units = np.clip(np.floor(left / unit + 1e-3), -1, width - 1).astype(int)
        table[a:b, b] = np.where(units < 0, INFINITY, best[np.arange(b - a), units])
    return table


def _in_units(excess: Floats, most: int) -> tuple[Ints, float]:
    """What schemes take beyond the least, in units, and the unit: the one that loses least."""
    some = excess[np.isfinite(excess) & (excess > 1e-9)]
    least = float(some.min()) if len(some) else 1.0
    units = [max(least / fine, 1.0 / most) for fine in FINE]
    unit = min(units, key=lambda u: float((some - u * np.floor(some / u + 1e-6)).sum()))
    whole = np.where(np.isfinite(excess), np.floor(excess / unit + 1e-6), NEVER)
    return whole.astype(np.int64), unit
