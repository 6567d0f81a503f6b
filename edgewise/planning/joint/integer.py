"""Stage tables raised from Lagrangian bounds to integer values, and the source's pair of stages."""

import numpy as np

from edgewise.planning.joint.arrays import Bools, Floats
from edgewise.planning.joint.knapsack import knapsack_table, unit_of
from edgewise.planning.joint.stages import Lower, Stages


def integer(stages: Stages, lower: Lower, only: Bools) -> Lower:
    """`lower` with the stages in `only` ([K, N+1, N+1]) raised to their integer value: exact in
    memory where no time limit holds, exact in time (memory priced as before) where one does."""
    cost = stages.costs()
    bound = lower.bound.copy()
    timed = bool(np.isfinite(stages.limit))
    for k in range(len(bound)):
        mu, alpha = lower.mu[k][lower.best[k]], lower.alpha[k][lower.best[k]]
        wanted = only[k] & stages.fits[k] & ((mu > 0) | (alpha > 0))
        if stages.slots.shared[k] or not wanted.any():
            continue
        if not timed:
            found = knapsack_table(cost[k], stages.problem.bytes, stages.cap[k], wanted)
            bound[k] = np.where(wanted, np.maximum(bound[k], found), bound[k])
            continue
        _raise_timed(stages, cost[k], k, wanted, mu, alpha, bound)
    return Lower(bound, lower.best, lower.alpha, lower.mu, lower.sums, lower.constant, lower.price)


def _raise_timed(
    stages: Stages, cost: Floats, k: int, wanted: Bools, mu: Floats, alpha: Floats, bound: Floats
) -> None:
    """Time in whole units, memory priced; and the other way round where memory binds."""

    size, time = stages.problem.bytes, stages.time[k]
    for own, other, price, room, cap in (
        (time, size, mu, stages.room[k], stages.cap[k]),
        (size, time, alpha, stages.cap[k], stages.room[k]),
    ):
        for value in np.unique(price[wanted])[:12]:
            here = wanted & (price == value)
            if own is size:
                here &= mu > 0
            if not here.any():
                continue
            found = knapsack_table(cost + value * other, own, room, here) - value * cap
            bound[k] = np.where(here, np.maximum(bound[k], found), bound[k])


def pair_table(stages: Stages, k: int) -> Floats:
    """[a, b]: least cost of layers [0, a) and [b, N) together on slot k (a < b, none empty), exact
    in memory with time free and the other way round, the greater of the two."""
    cost = stages.costs()[k]
    n = cost.shape[0]
    allowed = stages.problem.allowed[:, 0]
    out = _pair(cost, stages.problem.bytes, stages.cap[k])
    if np.isfinite(stages.limit):
        room = stages.room[k] - stages.problem.step[0]
        out = np.maximum(out, _pair(cost, stages.time[k], room))
    bad = np.concatenate([[0], np.cumsum(~allowed)])
    out[bad > 0, :] = np.inf
    out[:, bad < bad[-1]] = np.inf
    a, b = np.arange(n + 1)[:, None], np.arange(n + 1)[None, :]
    out[(a < 1) | (b > n - 1) | (a >= b)] = np.inf
    return out


def _pair(cost: Floats, size: Floats, capacity: float) -> Floats:
    n = cost.shape[0]
    least = np.where(np.isfinite(cost), size, np.inf).min(1)
    slack = np.where(np.isfinite(cost), size - least[:, None], 0.0)
    unit = unit_of(slack)
    whole = np.floor(slack / unit + 1e-7).astype(int)
    sums = np.concatenate([[0.0], np.cumsum(least)])
    taken = sums[:, None] + (sums[-1] - sums)[None, :]
    room = np.floor((capacity * (1 + 1e-12) - taken) / unit + 1e-7)
    a, b = np.arange(n + 1)[:, None], np.arange(n + 1)[None, :]
    fits = (room >= 0) & (a < b) & (a > 0) & (b < n)
    out = np.full((n + 1, n + 1), np.inf)
    if not fits.any():
        return out
    width = int(min(room[fits].max(), whole.max(1).sum())) + 1
    heads = _row(cost, whole, width, range(n), int(a[fits.any(1)].max()))
    tails = _row(
        cost, whole, width, range(n - 1, -1, -1), n - int(np.flatnonzero(fits.any(0)).min())
    )
    for i in np.flatnonzero(fits.any(1)):
        for j in np.flatnonzero(fits[i]):
            w = int(min(room[i, j], width - 1))
            out[i, j] = (heads[i][: w + 1] + tails[n - j][w::-1]).min()
    return out


def _row(cost: Floats, whole: Floats, width: int, layers: range, most: int) -> list[Floats]:
    """Least cost within w units after the first 0, 1, ... layers in this order."""
    rows = [np.zeros(width)]
    for layer in list(layers)[:most]:
        new = np.full(width, np.inf)
        for s in range(cost.shape[1]):
            shift = whole[layer, s]
            if np.isfinite(cost[layer, s]) and shift < width:
                np.minimum(new[shift:], rows[-1][: width - shift] + cost[layer, s], out=new[shift:])
        rows.append(new)
    return rows
