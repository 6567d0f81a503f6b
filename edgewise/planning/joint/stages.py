"""Stage tables: what every stage [a, b) on every slot costs at least, and what it can be had for.

A stage's schemes solve  min sum_l cost[l, s_l]  s.t.  sum time <= T - step,  sum bytes <= cap.
For any alpha, mu >= 0

    sum_l min_s (cost + alpha * time + mu * bytes)  -  alpha * (T - step) - mu * cap

bounds it from below (weak duality), and one cumulative sum over the layers gives that for all
stages of a slot at once. The table keeps, for every stage on its own, the best of a grid of
multipliers; grid points lie between the break points at which some layer changes its scheme. The
schemes of a grid point that happen to fit are a feasible choice.

The source's two stages share its memory and time, so their multipliers are shared too: they come
from outside (`shared`), and the constant is charged once by the caller.
"""

from dataclasses import dataclass, field

import numpy as np

from edgewise.planning.joint.arrays import Bools, Floats, Ints, JointProblem
from edgewise.planning.joint.knapsack import knapsack_table
from edgewise.planning.joint.slots import Slots

SLACK = 1e-10


@dataclass
class Stages:
    """One problem's layers on slots. `weight` multiplies seconds, `price` loss."""

    problem: JointProblem
    slots: Slots
    limit: float = np.inf  # T, on the time of a device
    weight: float = 1.0
    price: float = 0.0
    shared: tuple[float, float] = (0.0, 0.0)
    points: int = 24
    extra: dict[int, list[tuple[float, float]]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        p = self.problem
        n = p.shape[0]
        self.time = np.ascontiguousarray(p.time[:, self.slots.device].transpose(1, 0, 2))
        self.room = self.limit - p.step[self.slots.device]
        self.cap = p.cap[self.slots.device].astype(float)
        self.usable = p.loss <= p.budget * (1 + 1e-12)
        bad = np.zeros((len(self.cap), n + 1))
        bad[:, 1:] = np.cumsum(~p.allowed[:, self.slots.device].T, 1)
        a, b = np.arange(n + 1)[:, None], np.arange(n + 1)[None, :]
        ok = (b > a) & (bad[:, None, :] == bad[:, :, None])
        ok &= ~self.slots.starts[:, None, None] | (a == 0)
        ok &= ~self.slots.ends[:, None, None] | (b == n)
        self.fits = ok & self._possible()

    def _possible(self) -> Bools:
        """Stages that no direction of (time, bytes) proves too large."""
        n = self.problem.shape[0]
        possible = np.ones((len(self.cap), n + 1, n + 1), bool)
        timed = bool(np.isfinite(self.limit))
        for angle in np.linspace(0, 1, 9) if timed else (1.0,):
            room = np.where(self.room > 0, self.room, 1e-300) if timed else np.ones(len(self.cap))
            size = angle * self.problem.bytes[None] / np.maximum(self.cap, 1e-300)[:, None, None]
            if timed:
                size = size + (1 - angle) * self.time / room[:, None, None]
            least = np.where(self.usable, size, np.inf).min(2)
            sums = _cumulate(least)
            possible &= sums[:, None, :] - sums[:, :, None] <= 1 + SLACK
        return possible

    def costs(self) -> Floats:
        """[K, N, S], inf for a scheme whose loss alone is over the budget."""
        cost = self.weight * self.time + self.price * self.problem.loss[None]
        return np.where(self.usable[None], cost, np.inf)

    def grid(self, cost: Floats) -> tuple[Floats, Floats]:
        """Multipliers (alpha, mu), [K, G] each; one shared pair for the source."""
        size = np.broadcast_to(self.problem.bytes[None], cost.shape)
        timed = bool(np.isfinite(self.limit))
        mus = _breaks(cost, size, self.points if not timed else self.points // 2)
        alpha, mu = np.zeros_like(mus), mus
        if timed:
            alphas = _breaks(cost, self.time, self.points)
            few_a, few_m = alphas[:, 2::5], mus[:, 1::3]
            cross = (few_a.shape[1], few_m.shape[1])
            alpha = np.hstack([alpha, alphas, np.repeat(few_a, cross[1], 1)])
            mu = np.hstack([mu, np.zeros_like(alphas), np.tile(few_m, (1, cross[0]))])
        more = max((len(x) for x in self.extra.values()), default=0)
        add = np.zeros((2, len(cost), 1 + more))
        for k, pairs in self.extra.items():
            add[:, k, 1 : 1 + len(pairs)] = np.array(pairs).T
        alpha, mu = np.hstack([add[0], alpha]), np.hstack([add[1], mu])
        alpha[self.slots.shared], mu[self.slots.shared] = self.shared
        return alpha, mu

    def lower(self) -> "Lower":
        """Lower bounds of all stages at the current price."""
        cost = self.costs()
        alpha, mu = self.grid(cost)
        return self._lower_at(cost, alpha, mu)

    def _lower_at(self, cost: Floats, alpha: Floats, mu: Floats) -> "Lower":
        room = np.where(np.isfinite(self.room), self.room, 0.0)
        constant = alpha * room[:, None] + mu * self.cap[:, None]
        constant[self.slots.shared] = 0.0
        sums = np.empty((*alpha.shape, cost.shape[1] + 1))
        for g in range(alpha.shape[1]):
            sums[:, g] = _cumulate(self.weighed(cost, alpha[:, g], mu[:, g]).min(2))
        bound, best = self._maximum(sums, constant)
        bound[~self.fits] = np.inf
        return Lower(bound, best, alpha, mu, sums, constant, self.price)

    def again(self, lower: "Lower") -> "Lower":
        """`lower` with the rows of the source's pair at the present shared multipliers."""
        rows = np.flatnonzero(self.slots.shared)
        value = (
            self.costs()[rows]
            + self.shared[0] * self.time[rows]
            + self.shared[1] * self.problem.bytes
        )
        sums = _cumulate(value.min(2))
        bound = lower.bound.copy()
        bound[rows] = np.where(self.fits[rows], sums[:, None, :] - sums[:, :, None], np.inf)
        alpha, mu = lower.alpha.copy(), lower.mu.copy()
        alpha[rows], mu[rows] = self.shared
        return Lower(bound, lower.best, alpha, mu, lower.sums, lower.constant, lower.price)

    def divided(self, lower: "Lower", share: tuple[float, float]) -> Floats:
        """The table with the source's pair given fixed shares of its memory and time: heuristic."""

        bound, cost = lower.bound.copy(), self.costs()
        timed = bool(np.isfinite(self.limit))
        for k in np.flatnonzero(self.slots.shared):
            part = share[0] if self.slots.starts[k] else share[1]
            own = knapsack_table(cost[k], self.problem.bytes, part * self.cap[k], self.fits[k])
            if timed:
                own = np.maximum(
                    own, knapsack_table(cost[k], self.time[k], part * self.room[k], self.fits[k])
                )
            bound[k] = own
        return bound

    def _maximum(self, sums: Floats, constant: Floats) -> tuple[Floats, Ints]:
        k, _, n = sums.shape
        bound = np.full((k, n, n), -np.inf)
        best = np.zeros((k, n, n), np.int64)
        source = self.slots.shared
        for g in range(sums.shape[1]):
            rows = ~source if g else np.ones(k, bool)
            value = sums[rows, g, None, :] - sums[rows, g, :, None] - constant[rows, g, None, None]
            better = value > bound[rows]
            bound[rows] = np.where(better, value, bound[rows])
            best[rows] = np.where(better, g, best[rows])
        return bound, best

    def weighed(self, cost: Floats, alpha: Floats, mu: Floats) -> Floats:
        """cost + alpha * time + mu * bytes, [K, N, S]."""
        return (
            cost + alpha[:, None, None] * self.time + mu[:, None, None] * self.problem.bytes[None]
        )


@dataclass
class Lower:
    bound: Floats  # [K, N+1, N+1]
    best: Ints  # the grid point that gave it
    alpha: Floats
    mu: Floats
    sums: Floats  # [K, G, N+1]
    constant: Floats  # [K, G]
    price: float = 0.0  # of loss, where seconds count


def _cumulate(rows: Floats) -> Floats:
    out = np.zeros((*rows.shape[:-1], rows.shape[-1] + 1))
    np.cumsum(rows, -1, out=out[..., 1:])
    return out


def _breaks(cost: Floats, size: Floats, points: int) -> Floats:
    """Multipliers between the break points where a layer changes scheme: quantiles, and a tail."""
    k, _, s = cost.shape
    if s == 1:
        return np.zeros((k, points))
    rise, gain = [], []
    for x in range(s):
        for y in range(s):
            if x != y:
                rise.append(size[:, :, y] - size[:, :, x])
                with np.errstate(invalid="ignore"):
                    gain.append(cost[:, :, x] - cost[:, :, y])
    more, less = np.concatenate(rise, 1), np.concatenate(gain, 1)
    with np.errstate(all="ignore"):
        ratio = np.where((more > 0) & (less > 0) & np.isfinite(less), less / more, np.nan)
    out = np.zeros((k, points))
    for i in range(k):
        values = np.sort(ratio[i][np.isfinite(ratio[i])])
        if values.size:
            at = (np.arange(points) + 0.5) / points * (values.size - 1)
            out[i] = np.interp(at, np.arange(values.size), values)
            out[i, -1] = values[-1] * 1.01
    return out
