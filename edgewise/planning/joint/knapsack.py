"""Integer stages: the exact value of a stage's scheme choice under one capacity, for all stages.

    D_a(b + 1, w) = min over s of cost[b, s] + D_a(b, w - slack[b, s])

slack is a scheme's size above the layer's least one, in whole units rounded down, so the value
never exceeds the true one (weak only by the rounding; exact where sizes are multiples of the unit).
All starting layers a advance together. With two capacities the other one stays priced (`mu` or
`alpha` times size is part of the cost, its constant taken off), which keeps it a lower bound.
"""

import numpy as np

from edgewise.planning.joint.arrays import Bools, Floats

LEVELS = 192


def unit_of(slack: Floats, levels: int = LEVELS) -> float:
    """A unit that divides all slacks, if there is a coarse one; else the range / levels."""
    values = (
        np.unique(slack[slack > 0].round(9)) if slack.max() < 1e3 else np.unique(slack[slack > 0])
    )
    if not values.size:
        return 1.0
    for parts in range(1, 9):
        unit = float(values[0]) / parts
        ratio = values / unit
        if ratio.max() <= 2 * levels and (np.abs(ratio - ratio.round()) < 1e-6).all():
            return unit
    widest = slack.max(1)
    return float(np.median(widest[widest > 0])) / levels


def knapsack_table(cost: Floats, size: Floats, capacity: float, wanted: Bools) -> Floats:
    """[N+1, N+1] least cost of layers [a, b) within `capacity`; inf where not `wanted`."""
    n = cost.shape[0]
    least = np.where(np.isfinite(cost), size, np.inf).min(1)
    slack = np.where(np.isfinite(cost), size - least[:, None], 0.0)
    unit = unit_of(slack)
    whole = np.floor(slack / unit + 1e-7).astype(int)
    sums = np.concatenate([[0.0], np.cumsum(least)])
    room = np.floor((capacity * (1 + 1e-12) - (sums[None, :] - sums[:, None])) / unit + 1e-7)
    most = np.concatenate([[0], np.cumsum(whole.max(1))])
    room = np.minimum(room, most[None, :] - most[:, None])
    table = np.full((n + 1, n + 1), np.inf)
    wanted = wanted & (room >= 0)
    starts = np.flatnonzero(wanted.any(1))
    if not starts.size:
        return table
    width = int(room[wanted].max()) + 1
    last = np.array(
        [np.flatnonzero(wanted[a]).max() if wanted[a].any() else -1 for a in range(n + 1)]
    )
    state = np.zeros((n + 1, width))
    for b in range(n):
        live = starts[(starts <= b) & (last[starts] > b)]
        if not live.size:
            continue
        new = np.full((live.size, width), np.inf)
        old = state[live]
        for s in range(cost.shape[1]):
            shift = whole[b, s]
            if np.isfinite(cost[b, s]) and shift < width:
                np.minimum(new[:, shift:], old[:, : width - shift] + cost[b, s], out=new[:, shift:])
        state[live] = new
        use = live[wanted[live, b + 1]]
        if use.size:
            at = room[use, b + 1].astype(int)
            table[use, b + 1] = new[np.searchsorted(live, use), at]
    return table
