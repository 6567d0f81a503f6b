"""Plans that joint starts from, and never falls behind: other planners' answers, and in a tied
model every device on its own with the matrix stored once."""

from collections.abc import Callable

import numpy as np

from edgewise.errors import Infeasible
from edgewise.planning.cloud_edge import cloud_edge_even, cloud_edge_opt
from edgewise.planning.edgeshard import edgeshard
from edgewise.planning.edgeshard_throughput import edgeshard_throughput
from edgewise.planning.joint.adapter import Adapted
from edgewise.planning.joint.assign import assign
from edgewise.planning.problem import Objective, PlanResult, Problem
from edgewise.planning.proportional import even, memory_proportional, speed_proportional
from edgewise.planning.solo import solo
from edgewise.planning.tables import Tables

Quick = Callable[[Problem], PlanResult]
RULES: tuple[Quick, ...] = (
    solo, even, memory_proportional, speed_proportional, cloud_edge_even, cloud_edge_opt,
)  # fmt: skip
EDGESHARD_WORK = 100_000  # layers * devices squared * schemes that it may have to look at
MOST_ALONE = 16  # devices tried on their own with a scheme per layer


def quick_plans(problem: Problem) -> list[PlanResult]:
    """What the other quick planners find."""
    work = problem.num_layers * len(problem.devices) ** 2 * len(problem.schemes)
    throughput = problem.objective is Objective.THROUGHPUT
    programs = (edgeshard, edgeshard_throughput) if throughput else (edgeshard,)
    planners = (*RULES, *programs) if work <= EDGESHARD_WORK else RULES[:1]
    found = []
    for planner in planners:
        try:
            found.append(planner(problem))
        except Infeasible:
            continue
    return found


def whole_models(adapted: Adapted, found: Tables) -> list[tuple[int, list[int]]]:
    """In a tied model: devices that may hold everything, with the best schemes where embedding and
    head take the same one and are stored once."""
    p, plans = adapted.arrays, []
    if not found.shared.any():
        return []
    needed = np.flatnonzero(p.required)
    for j in np.flatnonzero(p.allowed.all(0))[:MOST_ALONE].tolist():
        if set(needed.tolist()) - {j}:
            continue
        for s, shared in enumerate(found.shared.tolist()):
            cap, loss = p.cap.copy(), np.minimum(p.loss, 1e300)
            cap[j] += shared
            budget = p.budget if np.isfinite(p.budget) else float(loss.sum())
            other = np.arange(p.shape[2]) != s
            for end in (0, -1):
                loss[end, other] = 2 * abs(budget) + 1.0
            q = p.with_(cap=cap, loss=loss, budget=budget)
            best = assign(q, np.full(p.shape[0], j), 1.0, 1e-9)
            if best is not None:
                plans.append((j, best.scheme.tolist()))
    return plans
