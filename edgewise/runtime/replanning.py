"""Another plan while one runs: for the devices that are there now."""

from collections.abc import Callable
from dataclasses import replace

from edgewise.clusters import Cluster
from edgewise.planning import PlanResult, Problem
from edgewise.planning.joint import joint
from edgewise.plans import Plan
from edgewise.sensitivities import Sensitivity

SECONDS = 1.0


def replanner(problem: Problem) -> Callable[[Cluster, Plan], PlanResult]:
    """Plans anew as `problem` was planned, on other devices. Layers keep their schemes where that
    fits, for then answers under way go on as they were; else any schemes within the budget."""

    def replan(cluster: Cluster, plan: Plan) -> PlanResult:
        there = replace(problem, costs=replace(problem.costs, cluster=cluster), pins=problem.pins)
        chosen = joint(keeping_schemes(there, plan), SECONDS)
        return replace(chosen, plan=replace(chosen.plan, rounding=plan.rounding))

    return replan


def keeping_schemes(problem: Problem, plan: Plan) -> Problem:
    """The same problem where every layer has the scheme that it has in a plan: any other would
    lose 1, of which nothing may be lost."""
    schemes = tuple(dict.fromkeys(plan.schemes))
    losses = {x: tuple(float(own != x) for own in plan.schemes) for x in schemes}
    only = Sensitivity(problem.costs.model.digest, "kept", 0.0, losses)
    return replace(
        problem, costs=replace(problem.costs, sensitivity=only), schemes=schemes, budget=0.5
    )
