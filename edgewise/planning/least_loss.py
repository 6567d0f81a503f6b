"""The least loss with which a model fits: what to ask for where a budget is too small."""

from dataclasses import replace

import numpy as np

from edgewise.errors import Infeasible
from edgewise.planning.dilemma import placement_of
from edgewise.planning.frontier import uniform_plans
from edgewise.planning.placement import solve
from edgewise.planning.problem import Planner, Problem
from edgewise.planning.tables import INFINITY, tables

SECONDS = 5.0
ROUNDING = 1e-9  # sums of the same losses in another order differ by less


def least_planned_loss(problem: Problem, planner: Planner) -> float | None:
    """The predicted loss of a plan of this planner's, as small as one was found, whatever the
    problem's budget; None where it finds none.

    An integer program says what the layers lose at least if memory, links, pins and wishes hold;
    the planner then plans within that. One that takes one scheme throughout tries each."""
    free = replace(problem, budget=INFINITY)
    least = _least_anywhere(free)
    if least is not None:
        try:
            return planner(replace(free, budget=least * (1 + ROUNDING))).estimate.loss
        except Infeasible:
            pass
    losses = [plan.estimate.loss for plan in uniform_plans(free, planner)]
    return min((loss for loss in losses if loss < INFINITY), default=None)


def _least_anywhere(problem: Problem) -> float | None:
    """Of any placement, None where there is none: the program of free placement (placement.py),
    its seconds replaced by losses."""
    try:
        arrays = tables(problem)
    except Infeasible:
        return None
    data = placement_of(problem, arrays)
    loss = arrays.loss[:, :, None]
    losses = replace(
        data,
        compute=np.where(np.isfinite(data.compute), loss, INFINITY),
        upload=np.where(np.isfinite(data.upload), 0.0, INFINITY),
        ends=np.where(np.isfinite(data.ends), 0.0, INFINITY),
    )
    _, _, schemes = solve(losses, SECONDS, None)
    if not schemes:
        return None
    return float(arrays.loss[schemes, range(len(schemes))].sum())
