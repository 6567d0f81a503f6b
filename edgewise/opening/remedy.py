"""Where no plan keeps its quality budget: the least budget that one would keep."""

import math

from edgewise.errors import Infeasible
from edgewise.planning import Planner, Problem
from edgewise.planning.least_loss import least_planned_loss
from edgewise.units import round_up

# What was measured, the interval's end, over what the sensitivity predicts: 1.2 to 1.35 on SmolLM2,
# 1.45 on the demo model; and room for the promise to be kept by more than one plan.
MEASURED = 1.6


def with_remedy(problem: Problem, planner: Planner, error: Infeasible) -> Infeasible:
    """The error, and what `--quality` to try instead: what the plan of least predicted loss that
    this planner finds may lose when it is measured."""
    sensitivity = problem.costs.sensitivity
    if sensitivity is None or problem.budget == math.inf:
        return error
    least = least_planned_loss(problem, planner)
    if least is None:
        remedy = "no plan fits whatever it loses: add memory, devices or schemes of fewer bits"
    else:
        share = least / sensitivity.reference
        needed = share * MEASURED if sensitivity.metric == "kl" else share
        remedy = (
            f"what fits loses {least:.4g} at least as predicted, {share:.2%} of the model's own: "
            f"try --quality {round_up(needed * 100)}%, or add memory or devices"
        )
    return Infeasible(f"{error}; {remedy}", shortage_bytes=error.shortage_bytes)
