"""One stage, exactly: least cost under both capacities; a Lagrangian bound prunes labels."""

import numpy as np

from edgewise.planning.joint.arrays import Floats


def exact_stage(
    cost: Floats,
    time: Floats,
    size: Floats,
    room: float,
    cap: float,
    pair: tuple[float, float],
    most: float,
    labels: int = 20_000,
) -> float | None:
    """min sum cost s.t. sum time <= room, sum size <= cap; inf where that exceeds `most`; None
    where too many labels would be needed. `pair` are multipliers for (time, size)."""
    n = len(cost)
    alpha, mu = pair
    usable = np.isfinite(cost)
    floor_t = _after(np.where(usable, time, np.inf).min(1))
    floor_b = _after(np.where(usable, size, np.inf).min(1))
    floor_c = _after(cost.min(1))
    rest = _after((cost + alpha * time + mu * size).min(1))
    spare = alpha * room + mu * cap
    room, cap, most = room * (1 + 1e-10), cap * (1 + 1e-10), most * (1 + 1e-9) + 1e-15
    state = np.zeros((1, 3))
    for i in range(n):
        use = np.flatnonzero(usable[i])
        step = np.stack([cost[i, use], time[i, use], size[i, use]], 1)
        state = (state[:, None, :] + step[None]).reshape(-1, 3)
        value = state[:, 0] + alpha * state[:, 1] + mu * state[:, 2] + rest[i + 1] - spare
        good = (state[:, 1] + floor_t[i + 1] <= room) & (state[:, 2] + floor_b[i + 1] <= cap)
        good &= np.maximum(value, state[:, 0] + floor_c[i + 1]) <= most
        state = state[good]
        if not len(state):
            return float("inf")
        if len(state) > 200:
            state = _thin(state)
        if len(state) > labels:
            return None
    return float(state[:, 0].min())


def _after(rows: Floats) -> Floats:
    return np.append(np.cumsum(rows[::-1])[::-1], 0.0)


def _thin(state: Floats) -> Floats:
    """Of labels with the same time and size keep the cheapest; drop some that others dominate."""
    state = state[np.lexsort((state[:, 0], state[:, 2].round(3), state[:, 1].round(12)))]
    same = (np.abs(np.diff(state[:, 1])) < 1e-12) & (np.abs(np.diff(state[:, 2])) < 1e-3)
    state = state[np.append(True, ~same)]
    state = state[np.argsort(state[:, 0], kind="stable")]
    keep = np.ones(len(state), bool)
    for shift in (1, 2, 3, 5, 8, 13, 21, 34):
        if shift < len(state):
            keep[shift:] &= ~(state[shift:] >= state[:-shift]).all(1)
    return state[keep]
