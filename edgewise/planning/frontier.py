"""What quality costs: the plans of one problem over a range of quality budgets, and beside them
those that quantize first and place afterwards."""

from collections.abc import Callable
from dataclasses import replace

import numpy as np

from edgewise.errors import Infeasible
from edgewise.planning.problem import Planner, PlanResult, Problem
from edgewise.planning.tables import tables


def frontier(
    problem: Problem,
    planner: Planner,
    points: int = 9,
    on_plan: Callable[[float], None] = lambda budget: None,
) -> list[PlanResult]:
    """Plans under budgets between the least loss any plan can have and the most any can have, or
    the problem's budget; losses ascend, seconds descend, no plan beats another in both."""
    plans: list[PlanResult] = []
    for budget in budgets(problem, points):
        try:
            result = planner(replace(problem, budget=budget))
        except Infeasible:
            continue
        finally:
            on_plan(budget)
        if not plans or problem.score(result.estimate) < problem.score(plans[-1].estimate):
            plans.append(result)
    return plans


def budgets(problem: Problem, points: int) -> list[float]:
    """Losses in equal ratios; the first is the least possible one, even where that is zero."""
    loss = tables(problem).loss  # [schemes, layers]
    known = loss[np.isfinite(loss).all(axis=1)]
    if not len(known):
        return []
    least, most = float(known.min(axis=0).sum()), float(known.max(axis=0).sum())
    most = min(most, problem.budget)
    if most <= least:
        return [least] if least <= problem.budget else []
    low = max(least, most * 1e-4)
    steps = np.geomspace(low, most, points if least > 0 else points - 1).tolist()
    return steps if least > 0 else [0.0, *steps]


def uniform_plans(
    problem: Problem,
    planner: Planner,
    on_plan: Callable[[str], None] = lambda scheme: None,
) -> list[PlanResult]:
    """The plan of every scheme on its own, where one fits and keeps the budget."""
    plans = []
    for scheme in problem.schemes:
        try:
            plans.append(planner(replace(problem, schemes=(scheme,))))
        except Infeasible:
            continue
        finally:
            on_plan(scheme)
    return plans
