"""Another plan while one runs: for the devices that are there now."""

from dataclasses import replace
from itertools import product

from edgewise.errors import Infeasible
from edgewise.planning import Planner, PlanResult, Problem
from edgewise.planning.disks import with_disks
from edgewise.planning.joint import quick_joint
from edgewise.plans import Plan
from edgewise.runtime.coordinator.coordinator import Coordinator, Replan
from edgewise.runtime.coordinator.workers import Workers
from edgewise.runtime.events import Event, PlanInUse
from edgewise.sensitivities import Sensitivity


def replanner(problem: Problem) -> Replan:
    """Plans anew as `problem` was planned, on the devices that are left. Layers keep their schemes
    where that fits, for then answers under way go on as they were; else they have any schemes
    within the budget; and only where none fit, layers are on disk. Pinned layers stay where they
    are, or there is no plan: it raises Infeasible, which names the devices that are missing."""

    def replan(workers: Workers, plan: Plan) -> Plan:
        there = _with_those_left(problem, workers)
        chosen = _first_found(keeping_schemes(there, plan), there, plan)
        return replace(chosen.plan, rounding=plan.rounding)

    return replan


def _first_found(kept: Problem, free: Problem, plan: Plan) -> PlanResult:
    error = Infeasible("")
    planners: list[Planner] = [quick_joint]
    if free.costs.cluster.has_disks:
        planners.append(with_disks(quick_joint, quick_joint))
    for planner, problem in product(planners, (kept, free)):
        try:
            return planner(problem)
        except Infeasible as reason:
            error = reason
    names = [device.name for device in free.costs.cluster.devices]
    lost = ", ".join(f"'{x}'" for x in dict.fromkeys(plan.devices) if x not in names)
    text = f"no plan is left without {lost}: {error}" if lost else str(error)
    raise Infeasible(text, shortage_bytes=error.shortage_bytes)


def _with_those_left(problem: Problem, workers: Workers) -> Problem:
    names = set(workers.names)
    return replace(
        problem,
        costs=replace(problem.costs, cluster=workers.cluster),
        pins=problem.pins,
        forbidden=problem.forbidden & names,
        required=problem.required & names,
    )


def keeping_schemes(problem: Problem, plan: Plan) -> Problem:
    """The same problem where every layer has the scheme that it has in a plan: any other would
    lose 1, of which nothing may be lost."""
    schemes = tuple(dict.fromkeys(plan.schemes))
    losses = {x: tuple(float(own != x) for own in plan.schemes) for x in schemes}
    only = Sensitivity(problem.costs.model.digest, "kept", 0.0, losses)
    return replace(
        problem, costs=replace(problem.costs, sensitivity=only), schemes=schemes, budget=0.5
    )


def keep_spare(engine: Coordinator) -> None:
    """From now on have a process ready in which the source's worker starts quickly when it is lost.
    For engines that live long: it takes a processor for a second, and 0.15 GB."""

    def prepare(event: Event) -> None:
        if isinstance(event, PlanInUse):
            engine.workers.prepare()

    engine.listen(prepare)
