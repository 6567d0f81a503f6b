"""Least max(latency / Q, period), by trial periods.

At a trial period T no device may be busy for longer than T. The relaxation or the route search may
prove that no plan is that fast; routes they leave over may become one. Trials close in on the
optimum like a bisection, in ratios. Without a weight on latency (Q infinite) the question at T is
that of the least loss, which `cover` answers as a set partition.

For finite Q both ends are solved first: the least latency over Q and the least period bound the
optimum, and either plan may attain it.
"""

import time as clock

import numpy as np

from edgewise.planning.joint.arrays import Floats, evaluate
from edgewise.planning.joint.ascent import ascend
from edgewise.planning.joint.assign import assign
from edgewise.planning.joint.cover import cover
from edgewise.planning.joint.elementary import elementary
from edgewise.planning.joint.latency import FEW_LABELS, least_latency
from edgewise.planning.joint.paths import Path
from edgewise.planning.joint.relax import Dual, Relaxation
from edgewise.planning.joint.search import SHARES, TINY, JointResult, Search
from edgewise.planning.joint.stages import Lower

NEAR = 1.03  # ratio of trial periods below which bisection stops
PART = 0.5  # of the time left that one trial may take


def least_period(run: Search) -> JointResult:
    return _Trials(run).solve()


class _Trials:
    def __init__(self, run: Search) -> None:
        self.run, self.p = run, run.p
        self.misses = 0  # trial periods neither met nor ruled out before there was a plan
        self.open: list[float] = []  # and since

    def solve(self) -> JointResult:
        run = self.run
        if run.prove and self._settled_first():
            return run.result()
        least = self.p.time.min((1, 2)).sum() / self.p.shape[1]  # all devices busy all the time
        run.bound = max(run.bound, float(least) * (1 - TINY))
        if np.isfinite(self.p.passes):
            self._ends()
        if run.best is None and self._first_plan():
            return run.result("infeasible")
        if run.best is not None and not run.closed():
            self._close_in()
        if run.prove and not run.settled():
            run.settle()
        return run.result()

    def _settled_first(self) -> bool:
        """A small instance needs no more than the exact search."""
        run = self.run
        if not np.isfinite(self.p.passes):
            return False
        run.dual, _ = run.start(run.relaxation(np.inf))
        done = run.settle(FEW_LABELS)
        run.dual = None
        return done

    def _ends(self) -> None:
        """The least latency over Q, and the least period, each with a bound and a plan to start
        from; first the one that is likely to decide."""
        passes = (np.inf, 1.0) if self.p.passes >= self.p.shape[1] else (1.0, np.inf)
        for end, part in zip(passes, (0.6, 0.6), strict=True):
            if self.run.closed():
                return
            self._end(end, part * self.run.left())

    def _end(self, passes: float, seconds: float) -> None:
        run = self.run
        other = Search(run.original.with_(passes=passes), run.target, seconds, False)
        if passes == 1:
            other.offer_known(run.best)
        found = least_latency(other) if passes == 1 else least_period(other)
        bound = found.bound / self.p.passes if passes == 1 else found.bound
        run.bound = max(run.bound, bound)
        if found.placement is not None:
            run.offer(evaluate(self.p, found.placement.device, found.placement.scheme))
            run.offer(assign(self.p, found.placement.device, 0.5))

    def _first_plan(self) -> bool:
        """Ever longer trial periods until a plan is found. True where none is proven to exist."""
        run, p = self.run, self.p
        links = float(p.hop[np.isfinite(p.hop)].max())
        most = p.time.max(2).sum() + p.step.sum() * 2 + links + 1e-9
        trial = p.time.min((1, 2)).sum() / p.shape[1] * 0.5 + 1e-12
        trial = max(trial, run.bound * (1 + run.target))
        while run.best is None and run.left() > 0:
            if self._probe(trial):
                run.bound = max(run.bound, trial)
                if trial > most:
                    return True
            elif trial > most:
                break
            else:
                self.misses += 1
            trial *= 1.5 if self.misses < 6 else 4
        return False

    def _close_in(self) -> None:
        """Trial periods between what is ruled out and what is met."""
        run = self.run
        while not run.closed() and run.left() > 0 and run.bound > 0:
            self.open = [x for x in self.open if run.bound < x < run.value]
            goal = self._next()
            if goal is None:
                break
            if self._probe(goal):
                run.bound = max(run.bound, goal)
            elif run.value > goal * (1 + TINY):
                self.open.append(goal)

    def _next(self) -> float | None:
        """The next trial period: in the middle, or, close by, what is just good enough: ruling that
        out ends the search, while nearer to the optimum proofs get long. Around trials that stayed
        open, the wider side."""
        run = self.run
        if not self.open:
            enough = run.value / (1 + 0.99 * run.target)
            return enough if enough / run.bound < NEAR else float(np.sqrt(run.bound * run.value))
        below, above = min(self.open) / run.bound, run.value / max(self.open)
        if max(below, above) < 1 + max(0.1 * run.target, TINY):
            return None
        return float(run.bound * below**0.5 if below > above else max(self.open) * above**0.5)

    def _probe(self, limit: float) -> bool:
        """True where no plan is proven to reach `limit`; incumbents found on the way are kept."""
        run = self.run
        relax, goal = run.relaxation(limit), self._goal(limit)
        if relax.stages.weight:
            dual, scale = run.start(relax)
        else:
            dual, scale = self._loss_start(relax)
            verdict = self._cover(relax, relax.table(dual), goal, limit, self._stop())
            if verdict is not None:
                return verdict
        if run.dual is not None:
            dual = Dual(run.dual.price, run.dual.shared, run.dual.visit)
        end = min(run.deadline, clock.perf_counter() + 0.2 * run.left())
        dual = ascend(relax, dual, scale, goal, 40, end)
        if np.isfinite(dual.bound):
            run.dual = dual
        if dual.bound > goal:
            return True
        return self._routes(relax, dual, goal, limit)

    def _stop(self) -> float:
        """No trial takes all the time that is left."""
        return clock.perf_counter() + max(PART * self.run.left(), 0.1)

    def _cover(
        self, relax: Relaxation, lower: Lower, goal: float, limit: float, stop: float
    ) -> bool | None:
        """The set partition's answer at `limit`; None where routes must be looked at."""
        run = self.run
        if run.best is None:  # far from the optimum an order search is enough, and quicker
            if cover(relax, lower, goal, stop, whole=False).bound > goal:
                return True
            self._orders(relax, lower, [[]], limit)
            if run.best is not None:
                return False
        found = cover(relax, lower, goal, stop)
        if found.bound > goal:
            return True
        run.polish(found.route or [])
        self._orders(relax, lower, [found.route or []], limit)
        if run.value <= limit * (1 + TINY) or not (self._holes(relax) or self.misses > 3):
            return False
        return None

    def _routes(self, relax: Relaxation, dual: Dual, goal: float, limit: float) -> bool:
        """Whether the route search rules everything out; else some of its routes are tried."""
        run = self.run
        duals = run.around(dual)
        if not relax.stages.weight:
            duals = [Dual(1.0, dual.shared * w, dual.visit) for w in (1.0, 0.4, 1.6)]
        lowers = run.tables(relax, duals, goal)
        found = elementary(relax, duals, lowers, goal, run.deadline, 10_000)
        if (found.complete and not found.routes) or found.bound >= goal:
            return True
        run.polish_all(found, 4)
        self._orders(relax, lowers[0], relax.paths[-2:], limit)
        return False

    def _orders(self, relax: Relaxation, lower: Lower, seeds: list[Path], limit: float) -> None:
        """Order search until a plan within `limit` is found."""
        run = self.run
        for share in SHARES:
            if run.value <= limit or run.left() < 0:
                return
            table = relax.stages.divided(lower, share)
            stop = clock.perf_counter() + 0.06 * run.left()
            for _, path in run.routes(relax, table, seeds, stop)[:2]:
                run.polish(path, 0.3)

    def _holes(self, relax: Relaxation) -> bool:
        """Whether links that are missing, or too slow at this limit, may matter."""
        hop = relax.chain.hop[~relax.slots.source][:, ~relax.slots.source]
        away = ~np.eye(len(hop), dtype=bool)
        ends = np.isinf(self.p.hop[0]).any() or np.isinf(self.p.hop[:, 0]).any()
        return bool(np.isinf(hop[away]).any() or ends)

    def _goal(self, limit: float) -> float:
        """What the relaxed value may not exceed at this period."""
        if np.isinf(self.p.passes):
            return self.p.budget * (1 + TINY) + 1e-12 * max(float(self.p.loss.max()), 1e-3)
        return limit * self.p.passes * (1 + TINY)

    def _loss_start(self, relax: Relaxation) -> tuple[Dual, Floats]:
        p, count = self.p, self.run.slots.count
        unit = max(p.budget, 1e-3 * float(p.loss.sum(0).max()), 1e-9)
        alpha = unit / p.time.min((1, 2)).sum()
        still = self.run.slots.source | (count > p.shape[0])
        shared = [0.0, alpha, 0.2 * unit / p.cap[0]]
        scale = np.concatenate([shared, np.where(still, 0.0, 0.1 * unit)])
        return Dual(1.0, np.zeros(2), np.zeros(len(count))), scale
