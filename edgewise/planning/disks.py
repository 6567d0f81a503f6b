"""Planners on clusters whose devices may keep layers on disk: only where nothing fits without."""

import contextlib
import math
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from itertools import product

from edgewise.errors import Infeasible
from edgewise.planning.problem import Planner, PlanResult, Problem, result
from edgewise.specs import Objective
from edgewise.units import format_seconds

SECONDS = 1.0  # for moving layers about
RUNS, LEAST_GAIN = (8, 4, 2, 1), 1e-3  # layers moved at a time; of a plan's score
TRIES = 10  # of how much is left on disks
FIRST, GROWTH = 1.02, 1.3  # times what is missing, and times the last try


def with_disks(planner: Planner, quick: Planner | None = None) -> Planner:
    """The same planner; where it finds no plan, it is asked as if devices with disks had more
    memory, by as much as they read in the same time, or by what the fastest disk alone does; and of
    that as little as lets it find a plan, whose layers that find no room are on disk then. The best
    of these plans is what it finds. Where a planner has a `quick` form, that is asked instead, and
    what it finds is improved by what reading costs."""

    def planned(problem: Problem) -> PlanResult:
        try:
            return planner(problem)
        except Infeasible as error:
            began, disks = time.perf_counter(), _rates(problem)
            if not disks:
                raise
            found = _from_disk(quick or planner, problem, disks, error)
            if quick is not None:
                found = _improved(problem, found, disks, time.perf_counter() + SECONDS)
            return _explained(found, time.perf_counter() - began)

    return planned


def _rates(problem: Problem) -> dict[str, float]:
    """Of the disks that there are for layers."""
    return {x: rate for x in problem.devices if (rate := problem.costs.disk_rate(x))}


def _from_disk(
    planner: Planner, problem: Problem, disks: Mapping[str, float], error: Infeasible
) -> PlanResult:
    found, reasons = list[PlanResult](), list[Infeasible]()
    for rates in _ways(problem, disks):
        try:
            found.append(_least(planner, problem, rates, error))
        except Infeasible as reason:
            reasons.append(reason)
    if not found:
        raise Infeasible(f"{error}; nor with layers on disk: {reasons[0]}", error.shortage_bytes)
    return min(found, key=lambda plan: problem.score(plan.estimate))


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
            return planner(_with_room(problem, room))
        except Infeasible as again:
            reason = again
        if seconds * rate > whole * len(rates):
            break
        seconds = seconds * GROWTH + largest / rate
    raise reason


def _with_room(problem: Problem, room: Mapping[str, int]) -> Problem:
    return replace(problem, costs=replace(problem.costs, on_disk=room), pins=problem.pins)


def _improved(
    problem: Problem, found: PlanResult, disks: Mapping[str, float], end: float
) -> PlanResult:
    """Move layers to the devices beside them, or to others, as long as that is better."""
    anything = _with_room(problem, dict.fromkeys(disks, 1))
    best, better = found, True
    while better:
        better = False
        devices = [x.device for x in best.plan.stages for _ in range(x.start, x.end)]
        for moved in _moves(devices, problem.devices):
            if time.perf_counter() > end:
                break
            with contextlib.suppress(Infeasible):
                plan = result(
                    *(anything, found.planner, moved, best.plan.schemes),
                    status="heuristic", began=end, why="",
                )  # fmt: skip
                if problem.score(plan.estimate) < problem.score(best.estimate) * (1 - LEAST_GAIN):
                    best, better = plan, True
                    break
    return best


def _moves(devices: Sequence[str], every: Sequence[str]) -> Iterator[list[str]]:
    """The same with a run of layers before or behind an end of a stage on another device."""
    count = len(devices)
    ends = [i for i in range(1, count + 1) if i == count or devices[i] != devices[i - 1]]
    for end, length, name in product(ends, RUNS, every):
        for first in (end - length, end):
            last = first + length
            if first >= 0 and last <= count and set(devices[first:last]) != {name}:
                yield [*devices[:first], *[name] * length, *devices[last:]]


def _explained(found: PlanResult, seconds: float) -> PlanResult:
    """What the planner says itself is of a problem without disks."""
    count = sum(len(stage.streamed) for stage in found.plan.stages)
    reads = sum(stage.read_seconds for stage in found.estimate.stages)
    why = (
        f"nothing fits in memory: {count} layers are on disk, and reading them takes "
        f"{format_seconds(reads)} of every step"
    )
    return replace(found, status="heuristic", gap=None, seconds=seconds, explanation=why)
