"""The same of real workers: arrivals by this machine's clock, answered by an engine."""

import time
from collections.abc import Sequence

from edgewise.batching.pace import Pace, pace_of
from edgewise.clusters import Cluster
from edgewise.costs import CostModel
from edgewise.errors import Unattainable
from edgewise.plans import Plan, Stage
from edgewise.profiling import Grid, measure
from edgewise.runtime.coordinator.admission import Admission
from edgewise.runtime.coordinator.coordinator import Coordinator
from edgewise.runtime.coordinator.workers import Workers
from edgewise.specs import ModelSpec, Workload
from edgewise.studies.dftsp.traffic import Incoming, Served

REPEATS = 5  # of each timing


def plan_alone(spec: ModelSpec, model: str, device: str, scheme: str) -> Plan:
    """The whole model on one device."""
    stage = Stage(device, 0, spec.num_layers, (scheme,) * spec.num_layers)
    return Plan(model, spec.digest, spec.num_layers, (stage,))


def measured_pace(
    workers: Workers, cluster: Cluster, spec: ModelSpec, plan: Plan, work: Workload
) -> Pace:
    """What the cost model says from timings made now."""
    grid = Grid.serving(work)
    timed = Grid(grid.decode, grid.prefill, REPEATS)
    profile = measure(workers, plan.model, spec, tuple(dict.fromkeys(plan.schemes)), timed)
    return pace_of(CostModel(spec, cluster, profile, work), plan)


def answer_arrivals(engine: Coordinator, asked: Sequence[Incoming]) -> list[Served]:
    """Give an idle engine requests as they arrive, and wait for all of their ends."""
    numbers, served = dict[int, int](), dict[int, Served]()
    began, arrived = time.monotonic(), 0
    while len(served) < len(asked):
        while arrived < len(asked) and time.monotonic() - began >= asked[arrived].at:
            one, arrived = asked[arrived], arrived + 1
            try:
                numbers[engine.submit(one.request, began + one.at)] = arrived - 1
            except Unattainable:
                served[arrived - 1] = Served(one, time.monotonic() - began, refused=True)
        if engine.idle and arrived < len(asked):
            engine.wait(max(began + asked[arrived].at - time.monotonic(), 0))
        for token in engine.step():
            if token.finish is not None:
                number = numbers[token.request]
                refused = token.finish == "error"
                served[number] = Served(asked[number], token.at - began, refused)
    return [served[number] for number in range(len(asked))]


def run_policy(
    workers: Workers,
    plan: Plan,
    work: Workload,
    admission: Admission,
    asked: Sequence[Incoming],
) -> list[Served]:
    """A fresh engine on workers that hold the plan's layers already, or load them."""
    engine = Coordinator(workers, plan.model, plan, work, admission=lambda plan: admission)
    return answer_arrivals(engine, asked)
