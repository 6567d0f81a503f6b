"""Planners on clusters whose devices may keep layers on disk: only where nothing fits without."""

import math
import time
from collections.abc import Iterator, Mapping
from dataclasses import replace

from edgewise.errors import Infeasible
from edgewise.planning.problem import Planner, PlanResult, Problem
from edgewise.specs import Objective
from edgewise.units import format_seconds

TRIES = 10  # of how much is left on disks
FIRST, GROWTH = 1.02, 1.3  # times what is missing, and times the last try


def with_disks(planner: Planner, quick: Planner | None = None) -> Planner:
    """The same planner; where it finds no plan, it is asked (`quick` is, where given, as it is
    asked several times) as if devices with disks had more memory, by as much as they read in the
    same time, or by what the fastest disk alone does; and of that as little as lets it find a plan,
    whose layers that find no room are on disk then. The best of these plans is what it finds."""

    def planned(problem: Problem) -> PlanResult:
        try:
            return planner(problem)
        except Infeasible as error:
            return _from_disk(quick or planner, problem, error)

    return planned


def _from_disk(planner: Planner, problem: Problem, error: Infeasible) -> PlanResult:
    began, costs = time.perf_counter(), problem.costs
    disks = {x: rate for x in problem.devices if (rate := costs.disk_rate(x))}
    if not disks:
        raise error
    found, reasons = list[PlanResult](), list[Infeasible]()
    for rates in _ways(problem, disks):
        try:
            found.append(_least(planner, problem, rates, error))
        except Infeasible as reason:
            reasons.append(reason)
    if not found:
        raise Infeasible(f"{error}; nor with layers on disk: {reasons[0]}", error.shortage_bytes)
    best = min(found, key=lambda result: problem.score(result.estimate))
    return _explained(best, time.perf_counter() - began)


def _ways(problem: Problem, disks: Mapping[str, float]) -> Iterator[Mapping[str, float]]:
    """Which disks are read, at which rates: all for as long as each other; or, where one token is
    what counts, the fastest alone."""
    yield disks
    fastest = max(disks, key=lambda name: disks[name])
    if len(disks) > 1 and problem.objective is Objective.LATENCY:
        yield {fastest: disks[fastest]}


def _least(
    planner: Planner, problem: Problem, rates: Mapping[str, float], error: Infeasible
) -> PlanResult:
    """A plan that reads about as little as possible. Raises Infeasible where none is found however
    much is on disk."""
    model, costs = problem.costs.model, problem.costs
    layers = range(model.num_layers)
    whole = max(sum(costs.layer_bytes(i, x) for i in layers) for x in problem.schemes)
    missing = min(max(error.shortage_bytes or 0, 1), whole)
    largest = max(costs.layer_bytes(i, x) for i in layers for x in problem.schemes)
    seconds, rate = FIRST * missing / sum(rates.values()), sum(rates.values())
    reason = error
    for _ in range(TRIES):
        room = {name: math.ceil(seconds * each) for name, each in rates.items()}
        try:
            return planner(replace(problem, costs=replace(costs, on_disk=room), pins=problem.pins))
        except Infeasible as again:
            reason = again
        if seconds * rate > whole * len(rates):
            break
        seconds = seconds * GROWTH + largest / rate
    raise reason


def _explained(result: PlanResult, seconds: float) -> PlanResult:
    estimate, plan = result.estimate, result.plan
    count = sum(len(stage.streamed) for stage in plan.stages)
    reads = sum(stage.read_seconds for stage in estimate.stages)
    why = (
        f"nothing fits in memory: {count} layers are on disk, and reading them takes "
        f"{format_seconds(reads)} of every step"
    )
    named = "; ".join(x for x in (why, result.explanation) if x)
    return replace(result, status="heuristic", gap=None, seconds=seconds, explanation=named)
