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
from edgewise.planning.joint.elementary import elementary
from edgewise.planning.joint.integer import integer
from edgewise.planning.joint.relax import Dual, Relaxation
from edgewise.planning.joint.search import SHARES, JointResult, Search
from edgewise.planning.joint.stages import Lower

FEW_LABELS = 20_000  # of a small instance that is settled before anything else
CUTOFFS = (1.003, 1.01, 1.02, 1.04, 1.08, 1.15, 1.3)  # of the dual bound, for the route search
BETWEEN = ((0.95, 1), (1.05, 1), (1.18, 1), (1.4, 1), (2.2, 1), (1.05, 0.7), (1.2, 1.3))


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
    duals = run.around(dual)
    lowers: list[Lower] = []
    covered = 0.0
    for factor in CUTOFFS:
        if run.closed() or run.left() < 0:
            break
        cutoff = min(dual.bound * factor, run.value)
        if cutoff > covered:  # integer stages only where the cutoff does not rule them out
            covered = min(max(cutoff, dual.bound * 1.02), run.value)
            lowers = run.tables(relax, duals, covered)
        found = elementary(relax, duals, lowers, cutoff)
        run.bound = max(run.bound, found.bound)
        run.polish_all(found)
        if not found.complete or cutoff >= run.value:
            break
    if not run.closed() and run.left() > 0:
        _again(run, relax, dual, duals, lowers)
    if run.prove and not run.settled():
        run.settle()
    return run.result()


def _first_routes(run: Search, relax: Relaxation, dual: Dual) -> None:
    """Incumbents from the dual's paths, at rising prices of loss until one is feasible."""
    seeds = relax.paths[-6:]
    relax.paths.clear()
    limit = clock.perf_counter() + 0.15 * run.left()
    for factor in (1.0, 1.3, 2.0, 4.0):
        lower = relax.table(Dual(dual.price * factor, dual.shared, dual.visit))
        lower = integer(relax.stages, lower, relax.stages.fits)
        feasible = 0
        for share in SHARES:
            table = relax.stages.divided(lower, share)
            for _, path in run.routes(relax, table, seeds[:2], limit)[:2]:
                feasible += run.polish(path)
        if feasible or clock.perf_counter() > limit:
            break


def _again(
    run: Search, relax: Relaxation, dual: Dual, duals: list[Dual], lowers: list[Lower]
) -> None:
    """Once more with prices in between, up to the incumbent, and more routes tried."""
    more = [Dual(dual.price * m, dual.shared * w, dual.visit) for m, w in BETWEEN]
    cutoff = run.value if run.best else run.bound * 1.05
    lowers = [*lowers, *run.tables(relax, more, cutoff)]
    if len(lowers) != len(duals) + len(more):  # the clock ran out before the first search
        return
    found = elementary(relax, [*duals, *more], lowers, cutoff, 150_000, keep=200)
    run.bound = max(run.bound, found.bound)
    run.polish_all(found, 200, 80)
