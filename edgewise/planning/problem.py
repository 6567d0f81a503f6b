"""What every planner is given, and what it gives back."""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import groupby

from edgewise.costs import CostModel, Estimate
from edgewise.errors import PlanError
from edgewise.plans import Plan, Stage
from edgewise.schemes import DEFAULT


@dataclass(frozen=True, slots=True)
class Problem:
    """Place the layers of `costs.model` on `costs.cluster`, each stored in `scheme`.

    The embedding is pinned to the source: prompts leave it only as activations.
    """

    costs: CostModel
    scheme: str = DEFAULT

    @property
    def num_layers(self) -> int:
        return self.costs.model.num_layers

    @property
    def source(self) -> str:
        return self.costs.cluster.source

    @property
    def devices(self) -> tuple[str, ...]:
        """Device names, the source first."""
        names = [device.name for device in self.costs.cluster.devices]
        return (self.source, *[name for name in names if name != self.source])

    def plan(self, devices: Sequence[str]) -> Plan:
        """The plan that puts layer i on devices[i], neighbours on one device forming a stage."""
        if devices[0] != self.source:
            raise PlanError(f"the embedding belongs on the source '{self.source}'")
        stages, at = [], 0
        for device, run in groupby(devices):
            end = at + len(list(run))
            stages.append(Stage(device, at, end, (self.scheme,) * (end - at)))
            at = end
        model = self.costs.model
        return Plan(model.name, model.digest, self.num_layers, tuple(stages))


@dataclass(frozen=True, slots=True)
class PlanResult:
    """A plan, what it is predicted to do, and how sure the planner is that none is better.

    `status` is "optimal", "heuristic" or "fixed" (a rule that optimises nothing); `gap` is the
    relative distance to a proven bound, None where there is none; `seconds` is planning time.
    """

    planner: str
    plan: Plan
    estimate: Estimate
    status: str
    gap: float | None
    seconds: float
    explanation: str


Planner = Callable[[Problem], PlanResult]


def result(
    problem: Problem, planner: str, devices: Sequence[str], status: str, began: float, why: str
) -> PlanResult:
    """Wrap a placement up. Raises Infeasible if it does not fit in memory after all."""
    plan = problem.plan(devices)
    problem.costs.check_memory(plan)
    gap = 0.0 if status == "optimal" else None
    estimate = problem.costs.estimate(plan)
    return PlanResult(planner, plan, estimate, status, gap, time.perf_counter() - began, why)
