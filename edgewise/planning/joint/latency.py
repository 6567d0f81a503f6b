"""Least latency.

1. `ascent` finds multipliers at which the relaxed shortest path costs the most: a bound.
2. Local search on the order turns relaxed paths into routes, `assign` gives a route its best
   schemes: an incumbent.
3. `elementary` searches the routes that no multiplier rules out: a better bound, better routes.
4. `exact` settles small instances.
"""

import time as clock

import numpy as np

from edgewise.planning.joint.ascent import ascend
from edgewise.planning.joint.assign import Prices, prices
from edgewise.planning.joint.elementary import Found, elementary
from edgewise.planning.joint.integer import integer
from edgewise.planning.joint.paths import Path
from edgewise.planning.joint.relax import Dual, Relaxation
from edgewise.planning.joint.search import SHARES, JointResult, Search
from edgewise.planning.joint.stages import Lower

FEW_LABELS = 20_000  # of a small instance that is settled before anything else
CUTOFFS = (1.003, 1.01, 1.02, 1.04, 1.08, 1.15, 1.3)  # of the dual bound, for the route search
MOST_LABELS, MOST_ROUTES = 1_500_000, 200
ROUNDS, AT_ONCE = 4, 3  # of new price vectors
MOST_ASKED = 40  # routes whose own prices are looked at
SHARPER = 3e-4  # relative gain that makes a price vector worth while
ALIKE = 0.03  # relative difference of prices that makes none


def least_latency(run: Search) -> JointResult:
    relax = run.relaxation(np.inf)
    dual, scale = run.start(relax)
    run.dual = dual
    if run.prove and run.settle(FEW_LABELS):
        return run.result()
    end = run.began + 0.35 * (run.deadline - run.began)
    dual = ascend(relax, dual, scale, np.inf, 70, end)
    if not np.isfinite(dual.bound):
        return run.result("infeasible")
    run.bound, run.dual, run.price = max(run.bound, dual.bound), dual, dual.price
    _first_routes(run, relax, dual)
    search = _Routes(run, relax, run.around(dual))
    for factor in CUTOFFS:
        if run.closed() or run.left() < 0:
            break
        goal = run.value / (1 + (0.0 if run.prove else 0.95 * run.target))
        cutoff = min(dual.bound * factor, goal)
        search.below(cutoff)
        if cutoff == goal and not run.value / (1 + run.target) < goal:
            break
    if run.prove and not run.settled():
        run.settle()
    return run.result()


class _Routes:
    """The route search at rising cutoffs. A route that it underrates, as the route's own linear
    relaxation tells, gives the search its prices: it becomes sharper where it was blunt."""

    def __init__(self, run: Search, relax: Relaxation, duals: list[Dual]) -> None:
        self.run, self.relax, self.duals = run, relax, duals
        self.lowers: list[Lower] = []
        self.covered = 0.0
        self.known: dict[tuple[tuple[int, int, int], ...], Prices] = {}

    def below(self, cutoff: float) -> None:
        """Look at all routes below the cutoff; what is proven about them raises the bound."""
        run = self.run
        if cutoff > self.covered:  # integer stages only where the cutoff does not rule them out
            self.covered = min(max(cutoff, run.bound * 1.02), run.value)
            self.lowers = run.tables(self.relax, self.duals, self.covered)
        for _ in range(ROUNDS):
            found = elementary(
                self.relax, self.duals, self.lowers, cutoff, run.deadline, MOST_LABELS, MOST_ROUTES
            )
            run.polish_all(found)
            run.bound = max(run.bound, min(found.rest, self._least(found, cutoff)))
            sharper = self._sharper(found, cutoff)
            if run.closed() or run.left() < 0 or run.bound >= cutoff or not sharper:
                return
            self.duals = [*self.duals, *sharper]
            self.lowers = [*self.lowers, *run.tables(self.relax, sharper, self.covered)]

    def _least(self, found: Found, cutoff: float) -> float:
        """What is proven about the routes found, each by whatever says most: the search, its own
        linear relaxation, or its integer program."""
        least = cutoff
        for bound, path in found.routes:
            if bound >= least:
                break
            if self.run.left() > 0:
                bound = max(bound, self._prices(path).bound)
            if bound < least:
                self.run.polish(path)
                bound = max(bound, self.run.tried.get(tuple(path), 0.0))
            least = min(least, bound)
        return least

    def _prices(self, path: Path) -> Prices:
        key = tuple(path)
        if key not in self.known:
            self.known[key] = prices(self.run.p, self.run.devices(path))
        return self.known[key]

    def _sharper(self, found: Found, cutoff: float) -> list[Dual]:
        """Prices of the routes that the search underrates most, none like another."""
        chosen: list[Dual] = []
        for bound, path in found.routes[:MOST_ASKED]:
            if self.run.left() < 0 or len(chosen) == AT_ONCE:
                break
            own = self._prices(path)
            gained = min(own.bound, cutoff) - bound
            new = all(abs(d.price - own.loss) > ALIKE * own.loss for d in (*self.duals, *chosen))
            if own.loss > 0 and new and gained > SHARPER * cutoff:
                chosen.append(Dual(own.loss, np.array([0.0, own.memory]), self.duals[0].visit))
        return chosen


def _first_routes(run: Search, relax: Relaxation, dual: Dual) -> None:
    """Incumbents from the dual's paths, at rising prices of loss until one is feasible."""
    seeds = relax.paths[-6:]
    relax.paths.clear()
    limit = clock.perf_counter() + 0.3 * run.left()
    for factor in (1.0, 1.6, 4.0, 30.0):
        lower = relax.table(Dual(dual.price * factor, dual.shared, dual.visit))
        lower = integer(relax.stages, lower, relax.stages.fits)
        feasible = 0
        for share in SHARES:
            table = relax.stages.divided(lower, share)
            for _, path in run.routes(relax, table, seeds[:2], limit)[:2]:
                feasible += run.polish(path)
        if feasible or clock.perf_counter() > limit:
            break
