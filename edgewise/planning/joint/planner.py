"""Devices, their order, the cuts between them and a scheme for every layer, chosen together.

    min  score     over    plans within memory, links, pins and the budget for predicted loss

searched among plans with one stage per device, two on the source (see solve.py), compared with the
answers of the quick planners, and if small improved in the orders near the best one (ordered.py):
both may return to a device. The bound of revisits.py holds for all plans: `status` and `gap` refer
to it. The explanation gives the narrower gap too.
"""

import time
from dataclasses import dataclass, replace

import numpy as np

from edgewise.errors import Infeasible
from edgewise.planning.dilemma import dilemma
from edgewise.planning.joint.adapter import Adapted, adapt
from edgewise.planning.joint.arrays import Placement, evaluate
from edgewise.planning.joint.candidates import quick_plans, whole_models
from edgewise.planning.joint.explain import explain
from edgewise.planning.joint.ordered import reordered
from edgewise.planning.joint.revisits import lower_bound
from edgewise.planning.joint.search import JointResult
from edgewise.planning.joint.solve import SECONDS, TARGET, solve
from edgewise.planning.problem import Objective, PlanResult, Problem, result
from edgewise.planning.tables import Tables, least_bytes, tables, why_infeasible

OPTIMAL = 1e-9  # relative gap
TINY_PROGRAM = 150  # layers * devices * schemes that DILEMMA's program proves in a moment
TINY_SECONDS = 2.0
SMALL_PROGRAM = 2500  # that integer programs over cuts and schemes improve on in a few seconds
SEARCHED = 0.4  # of the time, by the search, where such programs follow
POLISH_SECONDS = 2.0  # for them, where the search has proven to be within the target


def joint(problem: Problem, time_limit: float = SECONDS, target: float = TARGET) -> PlanResult:
    """The best plan found in about `time_limit` seconds, sooner where it is proven to be within
    `target`. Never worse than the quick planners. Raises Infeasible where no plan is found."""
    began, found = time.perf_counter(), tables(problem)
    _refuse(problem, found)
    adapted = adapt(problem, found)
    plans = quick_plans(problem)
    known = _best_known(adapted, found, plans)
    small = np.prod(adapted.arrays.shape) <= SMALL_PROGRAM
    searched = (SEARCHED if small else 1.0) * time_limit
    solved = solve(adapted.arrays, target, searched, warm=known)
    if small and solved.status != "optimal":
        left = time_limit - (time.perf_counter() - began)
        seconds = min(left, POLISH_SECONDS) if solved.gap <= target else left
        solved = _reordered(adapted, solved, known, seconds)
    plans += _plans_of(problem, adapted, found, solved, began)
    bound = _bound(adapted, found, solved, 0.2 * time_limit)
    best = min(plans, key=lambda x: problem.score(x.estimate), default=None)
    exact = _exact(problem, found, best, bound)
    if exact is not None:
        best, bound = exact
    if best is None and solved.status != "infeasible":
        raise Infeasible("found no plan in time, and no proof that there is none")
    if best is None:
        raise why_infeasible(problem, found)
    return _wrapped(problem, _Answer(adapted, found, solved, best, bound), began)


def _refuse(problem: Problem, found: Tables) -> None:
    """Raise Infeasible for what no search needs to find out."""
    if problem.exceeds(float(found.loss.min(axis=0).sum())):
        raise why_infeasible(problem, found)
    fits = found.allowed & (found.size.min(axis=0)[:, None] <= found.room + found.shared.max())
    for j in np.flatnonzero(found.required & ~fits.any(axis=0)):
        least = int(found.size.min()) - int(found.room[j])
        raise Infeasible(
            f"device '{found.names[j]}' must be used, but has no room for any layer it may hold",
            shortage_bytes=least if least > 0 else None,
        )
    room = int(np.maximum(found.room, 0).sum())
    crowded = least_bytes(found, problem.budget) - int(found.shared.max()) > room
    if crowded or not fits.any(axis=1).all():
        raise why_infeasible(problem, found)


def _placement(adapted: Adapted, found: Tables, plan: PlanResult) -> Placement | None:
    """A plan in the arrays' terms; None where it needs a tied model's discount."""
    names = [stage.device for stage in plan.plan.stages for _ in stage.schemes]
    device = np.array([adapted.devices.index(name) for name in names])
    scheme = np.array([found.schemes.index(name) for name in plan.plan.schemes])
    return evaluate(adapted.arrays, device, scheme)


def _best_known(adapted: Adapted, found: Tables, plans: list[PlanResult]) -> Placement | None:
    known = [x for plan in plans if (x := _placement(adapted, found, plan)) is not None]
    return min(known, key=lambda x: x.objective, default=None)


def _plans_of(
    problem: Problem, adapted: Adapted, found: Tables, solved: JointResult, began: float
) -> list[PlanResult]:
    """The search's plan and a tied model's whole ones, checked by the cost model."""
    rows = whole_models(adapted, found)
    pairs = [([j] * found.num_layers, schemes) for j, schemes in rows]
    if solved.placement is not None:
        pairs.append((solved.placement.device.tolist(), solved.placement.scheme.tolist()))
    plans = []
    for device, scheme in pairs:
        devices = [adapted.devices[j] for j in device]
        schemes = [found.schemes[s] for s in scheme]
        try:
            plan = result(
                problem, "joint", devices, schemes, status="heuristic", began=began, why=""
            )
        except Infeasible:  # by a rounding
            continue
        plans.append(plan)
    return plans


def _bound(adapted: Adapted, found: Tables, solved: JointResult, seconds: float) -> float:
    """Of every plan's score: a round takes no less than a lane's round trip."""
    p = adapted.arrays.with_(passes=1.0)
    bound = lower_bound(p, float(found.shared.max()), solved.price, seconds)
    return max(bound, 0.0)


def _reordered(
    adapted: Adapted, solved: JointResult, known: Placement | None, seconds: float
) -> JointResult:
    """Cuts and schemes once more, chosen together, in the orders near the best plan's."""
    plans = [x for x in (solved.placement, known) if x is not None]
    if not plans:
        return solved
    best = min(plans, key=lambda x: x.objective)
    return replace(solved, placement=reordered(adapted.arrays, best, seconds))


def _exact(
    problem: Problem, found: Tables, best: PlanResult | None, bound: float
) -> tuple[PlanResult, float] | None:
    """DILEMMA's program on a tiny problem that is still open: all plans, for the latency."""
    layers, devices = found.allowed.shape
    latency = problem.objective is Objective.LATENCY
    closed = best is not None and bound >= problem.score(best.estimate) * (1 - OPTIMAL)
    if closed or layers * devices * len(found.schemes) > TINY_PROGRAM:
        return None
    if best is not None and not latency:
        return None
    try:
        proven = dilemma(problem, TINY_SECONDS)
    except Infeasible:
        return None
    score = problem.score(proven.estimate)
    if latency and proven.gap is not None:
        bound = max(bound, score * (1 - proven.gap))
    if best is None or score < problem.score(best.estimate):
        best = proven
    return best, bound


@dataclass(frozen=True)
class _Answer:
    """What is known in the end: `bound` holds for every plan's score."""

    adapted: Adapted
    found: Tables
    solved: JointResult
    best: PlanResult
    bound: float

    def placement(self) -> Placement:
        """The best plan in the arrays' terms, a tied model's discount given as memory."""
        placed = _placement(self.adapted, self.found, self.best)
        if placed is None:
            p = self.adapted.arrays
            roomy = replace(self.adapted, arrays=p.with_(cap=p.cap + self.found.shared.max()))
            placed = _placement(roomy, self.found, self.best)
        assert placed is not None
        return placed


def _wrapped(problem: Problem, answer: _Answer, began: float) -> PlanResult:
    score = problem.score(answer.best.estimate)
    gap = max(1 - answer.bound / score, 0.0) if score > 0 else 0.0
    status = "optimal" if gap <= OPTIMAL else "bounded"
    said = [_proof(answer, score, status)]
    if answer.best.planner != "joint":
        said.append(f"found by {answer.best.planner}")
    said += explain(
        answer.adapted.arrays, answer.adapted.devices, answer.placement(), answer.solved.price
    )
    return replace(
        answer.best,
        planner="joint",
        status=status,
        gap=0.0 if status == "optimal" else gap,
        seconds=time.perf_counter() - began,
        explanation="; ".join(said),
    )


def _proof(answer: _Answer, score: float, status: str) -> str:
    """How near the best plan is, among all plans and among those of the family searched."""
    if status == "optimal":
        return "no plan is better"
    first = answer.adapted.devices[0]
    family = "plan with one stage per device" + (f" (two on '{first}')" if first else "")
    bound = answer.solved.bound * answer.adapted.scale
    if bound >= score * (1 - OPTIMAL):
        return f"no {family} is better"
    if bound <= 0:
        return f"nothing proven about the best {family}"
    return f"within {100 * (score / bound - 1):.2g} % of the best {family}"
