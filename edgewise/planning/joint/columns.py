"""Columns of the set partition in cover.py: the linear program over them, the rows they cover, and
their exact costs."""

import highspy
import numpy as np

from edgewise.planning.joint.arrays import Bools, Floats, Ints
from edgewise.planning.joint.relax import Relaxation, zoom
from edgewise.planning.joint.slots import Slots
from edgewise.planning.joint.solver import quiet_solver
from edgewise.planning.joint.stage import exact_stage
from edgewise.planning.joint.stages import Lower

Column = tuple[int, int, int]  # slot, a, b; for the pair: [0, a) and [b, N)


class Master:
    """The restricted linear program."""

    def __init__(self, n: int, count: Ints, required: Bools, big: float) -> None:
        self.n, self.k = n, len(count)
        self.h = quiet_solver()
        low = np.concatenate([np.ones(n), required.astype(float)])
        high = np.concatenate([np.ones(n), count.astype(float)])
        for a, b in zip(low, high, strict=True):
            self.h.addRow(
                float(a) if a else -highspy.kHighsInf,
                float(b),
                0,
                np.zeros(0, np.int32),
                np.zeros(0),
            )
        for row in range(n):
            self.h.addCol(big, 0.0, highspy.kHighsInf, 1, np.array([row], np.int32), np.ones(1))
        for k in np.flatnonzero(required):
            self.h.addCol(big, 0.0, highspy.kHighsInf, 1, np.array([n + k], np.int32), np.ones(1))
        self.columns: list[Column] = []
        self.known: set[Column] = set()
        self.base = n + int(required.sum())

    def add(self, column: Column, cost: float, rows: Ints) -> None:
        if column not in self.known:
            self.known.add(column)
            self.columns.append(column)
            self.h.addCol(
                cost, 0.0, highspy.kHighsInf, len(rows), rows.astype(np.int32), np.ones(len(rows))
            )

    def solve(self) -> Floats:
        self.h.run()
        return np.array(self.h.getSolution().row_dual)


def device_rows(slots: Slots) -> Ints:
    """Slots of the source share one row."""
    return np.where(slots.source, 0, np.cumsum(~slots.source))


class Sharpener:
    """Raises the cost of single columns to its exact value under both capacities."""

    def __init__(
        self, relax: Relaxation, lower: Lower, price: Floats, first: int, goal: float
    ) -> None:
        self.st, self.lower, self.price, self.first, self.goal = (
            relax.stages,
            lower,
            price,
            first,
            goal,
        )
        self.done: set[Column] = set()
        self.cost = self.st.costs()

    def raise_all(self, columns: list[Column], master: Master | None) -> bool:
        """True where any cost rose; the master learns of it."""
        rose = False
        for column in columns:
            if column in self.done:
                continue
            self.done.add(column)
            value = self.exact(column)
            if value is None or value <= self.price[column] * (1 + 1e-9) + 1e-15:
                continue
            rose = True
            self.price[column] = value
            if master is not None:
                index = master.base + master.columns.index(column)
                if np.isfinite(value):
                    master.h.changeColCost(index, value)
                else:
                    master.h.changeColBounds(index, 0.0, 0.0)
        return rose

    def exact(self, column: Column) -> float | None:
        k, a, b = column
        st, n = self.st, self.cost.shape[1]
        layers = np.r_[0:a, b:n] if k == self.first else np.arange(a, b)
        room = st.room[k] - (st.problem.step[0] if k == self.first else 0.0)
        cost, time, size = self.cost[k, layers], st.time[k, layers], st.problem.bytes[layers]
        g = int(self.lower.best[k, a, b]) if k != self.first else 0
        pair = (float(self.lower.alpha[k, g]), float(self.lower.mu[k, g]))
        if pair == (0.0, 0.0):
            pair = (1e-3 * self.goal / max(room, 1e-12), 1e-3 * self.goal / st.cap[k])
        pair = zoom(cost, time, size, room, st.cap[k], pair)
        return exact_stage(cost, time, size, room, st.cap[k], pair, self.goal)


class Rows:
    """Rows that a column covers, and sums of layer values over all columns at once."""

    def __init__(self, n: int, first: int) -> None:
        self.n, self.first = n, first

    def __call__(self, k: int, a: int, b: int, device: Ints) -> Ints:
        layers = np.r_[0:a, b : self.n] if k == self.first else np.arange(a, b)
        return np.append(layers, self.n + device[k])

    def sums(self, v: Floats, count: int) -> Floats:
        total = np.concatenate([[0.0], np.cumsum(v)])
        plain = total[None, :] - total[:, None]
        out = np.broadcast_to(plain, (count, *plain.shape)).copy()
        out[self.first] = total[:, None] + (total[-1] - total)[None, :]
        return out
