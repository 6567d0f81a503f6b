"""The relaxed problem: a shortest path over (layers done, slot), and its Lagrangian dual.

Relaxed are: each device at most once (multipliers pi per slot, for the number of visits), the loss
budget (multiplier lambda: loss gets a price), the source's memory and time over its two stages.
For every choice of multipliers

    bound = shortest path with stage costs from the lower table + lambda * loss + pi per visit
            - lambda * budget - sum pi * count - alpha0 * T - mu0 * cap0

is a lower bound of the true optimum. The dual maximises it by cutting planes in a trust region.
"""

from dataclasses import dataclass, field

import numpy as np

from edgewise.planning.joint.arrays import Floats, JointProblem
from edgewise.planning.joint.integer import integer
from edgewise.planning.joint.paths import Path, shortest
from edgewise.planning.joint.slots import Slots
from edgewise.planning.joint.stages import Lower, Stages


@dataclass
class Chain:
    """Costs between stages, for one objective."""

    hop: Floats  # [K, K]
    start: Floats  # [K] entering the chain there, its step included
    enter: Floats  # [K] step
    end: Floats  # [K]

    @staticmethod
    def of(p: JointProblem, slots: Slots, weight: float, limit: float) -> "Chain":
        device = slots.device
        hop = np.where(slots.hop > limit * (1 + 1e-12), np.inf, slots.hop)
        step = weight * p.step[device]
        if weight == 0:
            zero = np.zeros(len(device))
            return Chain(np.where(np.isfinite(hop), 0.0, np.inf), zero, zero, zero)
        return Chain(weight * hop, weight * p.entry[device] + step, step, weight * p.ret[device])


@dataclass
class Dual:
    """Multipliers, and the best bound seen."""

    price: float
    shared: Floats  # alpha0, mu0
    visit: Floats  # [K]
    bound: float = -np.inf


@dataclass
class Ends:
    start: Floats
    enter: Floats
    end: Floats


@dataclass
class Cut:
    """The dual function lies below value + slope (x - point)."""

    value: float
    slope: Floats
    point: Floats
    path: Path


@dataclass
class Relaxation:
    """The dual function of one problem, at one limit on the period."""

    stages: Stages
    chain: Chain
    budget: float
    paths: list[Path] = field(default_factory=list)
    fixed: Lower | None = None  # without weight on seconds the table never changes

    @property
    def slots(self) -> Slots:
        return self.stages.slots

    def families(self, visit: Floats) -> list[Ends]:
        """Two ways to begin and end: the source has one stage at most, or one at each end."""
        slots, chain = self.slots, self.chain
        pair, inf = slots.shared, np.inf
        one = Ends(
            np.where(pair, inf, chain.start + visit),
            np.where(pair, inf, chain.enter + visit),
            chain.end,
        )
        start = np.where(pair & slots.starts, chain.start + visit, inf)
        enter = np.where(slots.source & ~pair, inf, chain.enter + visit)
        two = Ends(start, enter, np.where(pair & slots.ends, chain.end, inf))
        return [one, two]

    def constant(self, dual: Dual, family: int) -> float:
        """What the relaxed rows' right sides take off the path's value."""
        st = self.stages
        room = st.limit if np.isfinite(st.limit) else 0.0
        off = float(dual.visit @ self.slots.count) + (
            dual.price * self.budget if st.weight else 0.0
        )
        if family:
            off += float(dual.shared @ np.array([room, st.problem.cap[0]]))
        return off

    def table(self, dual: Dual) -> Lower:
        st = self.stages
        st.shared = (float(dual.shared[0]), float(dual.shared[1]))
        if st.weight:
            st.price = dual.price
            return st.lower()
        if self.fixed is None:
            lower = st.lower()
            self.fixed = integer(st, lower, np.ones(lower.bound.shape, bool))
        return st.again(self.fixed)

    def visits(self, dual: Dual) -> Floats:
        """What a visit costs on top of its step: pi, and the step's share of the source's time."""
        st = self.stages
        timed = dual.shared[0] * st.problem.step[0] if np.isfinite(st.limit) else 0.0
        return dual.visit + np.where(self.slots.shared, timed, 0.0)

    def value(self, dual: Dual) -> tuple[float, list[Cut], Lower]:
        """The bound at `dual`, one cut per family of paths, the stage table."""
        lower = self.table(dual)
        cuts = []
        for family, ends in enumerate(self.families(self.visits(dual))):
            value, path = shortest(lower.bound, self.chain.hop, ends.start, ends.enter, ends.end)
            value -= self.constant(dual, family)
            if np.isfinite(value):
                cuts.append(Cut(value, pack(self._slope(lower, path, family)), pack(dual), path))
        return min((c.value for c in cuts), default=np.inf), cuts, lower

    def _slope(self, lower: Lower, path: Path, family: int) -> Dual:
        """What the layers on the path take of every relaxed row, less what there is."""
        st = self.stages
        cost = st.costs()
        visit = -self.slots.count.astype(float)
        room = st.limit if np.isfinite(st.limit) else 0.0
        loss, busy, used = -self.budget, -room * family, -st.problem.cap[0] * family
        for k, a, b in path:
            g = lower.best[k, a, b]
            value = (
                cost[k, a:b]
                + lower.alpha[k, g] * st.time[k, a:b]
                + lower.mu[k, g] * st.problem.bytes[a:b]
            )
            pick, rows = value.argmin(1), np.arange(a, b)
            loss += st.problem.loss[rows, pick].sum()
            visit[k] += 1
            if self.slots.shared[k]:
                busy += st.time[k, rows, pick].sum() + st.problem.step[0]
                used += st.problem.bytes[rows, pick].sum()
        visit[self.slots.source] = 0.0
        return Dual(loss if st.weight else 0.0, np.array([busy if room else 0.0, used]), visit)

    def refine(self, path: Path, lower: Lower, keep: int = 10) -> None:
        """Give the stages on the path their own best multipliers in the grid from now on."""
        st = self.stages
        cost = st.costs()
        for k, a, b in path:
            if self.slots.shared[k]:
                continue
            g = lower.best[k, a, b]
            pair = zoom(
                cost[k, a:b],
                st.time[k, a:b],
                st.problem.bytes[a:b],
                st.room[k] if np.isfinite(st.limit) else np.inf,
                st.cap[k],
                (float(lower.alpha[k, g]), float(lower.mu[k, g])),
            )
            known = st.extra.setdefault(k, [])
            if pair != (0.0, 0.0) and pair not in known:
                known.append(pair)
                del known[:-keep]


def zoom(
    cost: Floats, time: Floats, size: Floats, room: float, cap: float, start: tuple[float, float]
) -> tuple[float, float]:
    """Raise a stage's dual value from a grid point, by ever finer local grids of factors."""
    best, spread = start, 2.0
    timed = np.isfinite(room)
    for _ in range(7):
        factors = np.geomspace(1 / spread, spread, 7)
        alphas = best[0] * factors if best[0] > 0 and timed else np.zeros(1)
        mus = best[1] * factors if best[1] > 0 else np.zeros(1)
        alpha, mu = (x.ravel() for x in np.meshgrid(alphas, mus))
        value = (cost[None] + alpha[:, None, None] * time + mu[:, None, None] * size).min(2).sum(1)
        value -= mu * cap + (alpha * room if timed else 0.0)
        at = int(value.argmax())
        best, spread = (float(alpha[at]), float(mu[at])), spread**0.45
    return best


def pack(dual: Dual) -> Floats:
    return np.concatenate([[dual.price], dual.shared, dual.visit])


def unpack(x: Floats) -> Dual:
    return Dual(float(x[0]), x[1:3], x[3:])
