"""What every planner is given, and what it gives back."""

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import groupby, pairwise

from edgewise.costs import CostModel
from edgewise.errors import Infeasible, PlanError
from edgewise.estimates import Estimate
from edgewise.planning.spilling import spilled
from edgewise.plans import Plan, Stage
from edgewise.schemes import DEFAULT
from edgewise.specs import Objective as Objective


@dataclass(frozen=True, slots=True)
class Problem:
    """Place the layers of `costs.model` on `costs.cluster`, each stored in one of `schemes`.

    `budget` bounds the plan's predicted loss. `pins` fixes layers to devices; by default the
    embedding lies on the source, so that prompts leave it only as activations. `forbidden` devices
    stay unused, `required` ones are used. Under `Objective.LATENCY`, `first_token_weight` seconds
    of time to first token count as much as one second per token.
    """

    costs: CostModel
    schemes: tuple[str, ...] = (DEFAULT,)
    objective: Objective = Objective.LATENCY
    budget: float = float("inf")
    pins: Mapping[int, str] | None = None
    forbidden: frozenset[str] = frozenset()
    required: frozenset[str] = frozenset()
    first_token_weight: float = 0.0
    pinned: Mapping[int, str] = field(init=False)

    def __post_init__(self) -> None:
        pinned = {0: self.source} if self.pins is None else dict(self.pins)
        object.__setattr__(self, "pinned", pinned)
        if outside := [layer for layer in pinned if not 0 <= layer < self.num_layers]:
            raise PlanError(
                f"layer {outside[0]} is pinned, but the model has layers 0 to {self.num_layers - 1}"
            )
        if not self.schemes:
            raise PlanError("a problem needs at least one scheme")
        for name in (*pinned.values(), *self.forbidden, *self.required):
            self.costs.cluster.device(name)
        if both := self.forbidden & ({*pinned.values()} | self.required):
            raise PlanError(f"device '{min(both)}' must be used and must not be used")

    @property
    def num_layers(self) -> int:
        return self.costs.model.num_layers

    @property
    def source(self) -> str:
        return self.costs.cluster.source

    @property
    def devices(self) -> tuple[str, ...]:
        """Names of the devices that may be used, the source first."""
        names = [device.name for device in self.costs.cluster.devices]
        ordered = (self.source, *[name for name in names if name != self.source])
        return tuple(name for name in ordered if name not in self.forbidden)

    @property
    def is_sum(self) -> bool:
        """Whether the score is a sum over layers and hops, as planners prove things about: the time
        to the first token is none where prompts travel in several chunks."""
        weighs_first = self.objective is Objective.LATENCY and self.first_token_weight > 0
        return not weighs_first or len(self.costs.chunks) == 1

    def exceeds(self, loss: float) -> bool:
        """Whether a predicted loss is beyond the budget, but for rounding."""
        return loss > self.budget * (1 + 1e-12)

    def score(self, estimate: Estimate) -> float:
        """Seconds that the objective makes small."""
        if self.objective is Objective.THROUGHPUT:
            return estimate.round_seconds()
        return estimate.decode_seconds + self.first_token_weight * estimate.prefill_seconds

    def plan(self, devices: Sequence[str], schemes: Sequence[str]) -> Plan:
        """The plan that puts layer i on devices[i] in schemes[i], neighbours on one device forming
        a stage. Where layers may be on disk, those are that find no room in memory."""
        stages, at = [], 0
        for device, run in groupby(devices):
            end = at + len(list(run))
            stages.append(Stage(device, at, end, tuple(schemes[at:end])))
            at = end
        model = self.costs.model
        work = self.costs.workload
        named = model.name, model.digest, self.num_layers
        plan = Plan(*named, tuple(stages), cache=work.cache, wire=work.wire)
        return spilled(self.costs, plan) if self.costs.on_disk else plan

    def check(self, plan: Plan, estimate: Estimate) -> None:
        """Raise Infeasible, naming the constraint, where a plan breaks one."""
        self.costs.check_memory(plan)
        ends = [self.source, *(stage.device for stage in plan.stages), self.source]
        for a, b in pairwise(ends):
            if a != b and self.costs.link(a, b) is None:
                raise Infeasible(f"nothing leads from '{a}' to '{b}'")
        for stage in plan.stages:
            for layer in range(stage.start, stage.end):
                if self.pinned.get(layer, stage.device) != stage.device:
                    raise Infeasible(
                        f"layer {layer} is pinned to '{self.pinned[layer]}', not '{stage.device}'"
                    )
        if excluded := self.forbidden & set(plan.devices):
            raise Infeasible(f"device '{min(excluded)}' must not be used")
        if missing := self.required - set(plan.devices):
            raise Infeasible(f"device '{min(missing)}' must be used, but is not")
        if self.exceeds(estimate.loss):
            raise Infeasible(
                f"the plan's predicted loss of {estimate.loss:.4g} exceeds the budget of "
                f"{self.budget:.4g}"
            )


@dataclass(frozen=True, slots=True)
class PlanResult:
    """A plan, what it is predicted to do, and how sure the planner is that none is better.

    `status` is "optimal", "bounded" (`gap` is the proven relative distance to the optimum, that
    of some plans only where `explanation` says so), "heuristic" or "fixed" (a rule that optimises
    nothing); `seconds` is planning time.
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
    problem: Problem,
    planner: str,
    devices: Sequence[str],
    schemes: Sequence[str],
    *,
    status: str,
    began: float,
    why: str,
    gap: float | None = None,
) -> PlanResult:
    """Wrap a placement up. Raises Infeasible where it breaks a constraint after all."""
    plan = problem.plan(devices, schemes)
    estimate = problem.costs.estimate(plan)
    problem.check(plan, estimate)
    if not problem.is_sum and status in ("optimal", "bounded"):
        status, gap = "heuristic", None
    gap = 0.0 if status == "optimal" else gap
    return PlanResult(planner, plan, estimate, status, gap, time.perf_counter() - began, why)


def with_uniform_schemes(
    problem: Problem, planner: str, place: Callable[[str], tuple[Sequence[str], str, str]]
) -> PlanResult:
    """Quantize uniformly, then place: try `place(scheme) -> (devices, status, why)` with every
    scheme within the budget and keep the best. For planners that do not choose schemes themselves.

    Raises Infeasible with the reason of the scheme that came closest to fitting.
    """
    began, reasons = time.perf_counter(), []
    best: PlanResult | None = None
    for scheme in problem.schemes:
        loss = sum(problem.costs.loss(i, scheme) for i in range(problem.num_layers))
        if problem.exceeds(loss):
            reasons.append(
                Infeasible(
                    f"in {scheme} throughout, the predicted loss of {loss:.4g} exceeds the budget "
                    f"of {problem.budget:.4g}"
                )
            )
            continue
        try:
            devices, status, why = place(scheme)
            schemes = [scheme] * problem.num_layers
            uniform = result(
                problem, planner, devices, schemes, status=status, began=began, why=why
            )
        except Infeasible as error:
            reasons.append(error)
            continue
        if best is None or problem.score(uniform.estimate) < problem.score(best.estimate):
            best = uniform
    if best is None:
        raise min(
            reasons, key=lambda e: float("inf") if e.shortage_bytes is None else e.shortage_bytes
        )
    return best
