"""Where no plan keeps its quality budget: the least budget that one would keep."""

import math

from edgewise.errors import Infeasible
from edgewise.planning import Planner, Problem
from edgewise.planning.least_loss import least_loss
from edgewise.quality.promise import FIRST


def with_remedy(problem: Problem, planner: Planner, error: Infeasible) -> Infeasible:
    """The error, and what `--quality` to try instead: what the plan of least predicted loss that
    this planner finds needs, the promise's allowance for what is measured included."""
    sensitivity = problem.costs.sensitivity
    if sensitivity is None or problem.budget == math.inf:
        return error
    least = least_loss(problem, planner)
    if least is None:
        remedy = "no plan fits whatever it loses: add memory, devices or schemes of fewer bits"
    else:
        needed = least / FIRST if sensitivity.metric == "kl" else least
        share = least / sensitivity.reference
        remedy = (
            f"what fits loses {least:.4g} at least, {share:.2%} of the model's own: try --quality "
            f"{_up(needed / sensitivity.reference * 100)}%, or add memory or devices"
        )
    return Infeasible(f"{error}; {remedy}", shortage_bytes=error.shortage_bytes)


def _up(number: float) -> str:
    """Two digits, rounded up."""
    if number <= 0:
        return "0"
    step = 10.0 ** (math.floor(math.log10(number)) - 1)
    return f"{math.ceil(number / step * (1 - 1e-12)) * step:.2g}"
