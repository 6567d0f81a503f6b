"""Which plan a cluster should run now, and whether that is worth a change."""

from collections.abc import Callable
from dataclasses import replace

from edgewise.batching import Policy, fcfs
from edgewise.batching.pace import pace_of
from edgewise.clusters import Cluster
from edgewise.costs import CostModel
from edgewise.errors import DeviceMemoryError, Infeasible, InputError, NonFinite
from edgewise.hosting.measured import Measured
from edgewise.opening.by_quality import LossBudget
from edgewise.opening.default_scheme import check_size, first_that_fits
from edgewise.planning import Objective, Planner, PlanResult, Problem
from edgewise.planning.disks import with_disks
from edgewise.planning.joint import quick_joint
from edgewise.plans import Plan
from edgewise.runtime.coordinator.admission import Admission
from edgewise.runtime.coordinator.replanning import keeping_schemes
from edgewise.runtime.coordinator.workers import Workers
from edgewise.specs import ModelSpec, Workload

GAIN = 0.1  # less is not worth that requests pause


class Chooser:
    """Plans for the devices that there are when it is asked, in one scheme throughout: `scheme`,
    or what takes the most bits that fit; or in any schemes that keep to a `quality`. Every method
    may measure, and raises DeviceLost and Infeasible."""

    def __init__(
        self,
        workers: Workers,
        measured: Measured,
        spec: ModelSpec,
        workload: Workload,
        scheme: str | None = None,
        objective: Objective = Objective.LATENCY,
        policy: Policy = fcfs,
        quality: LossBudget | None = None,
        note: Callable[[str], None] = lambda text: None,
        planner: Planner = quick_joint,
    ) -> None:
        """`note` is told what plans were measured to lose. Layers are on disk only where nothing
        else fits, whatever the schemes."""
        self._planner, self._with_disks = planner, with_disks(planner, planner)
        self._workers, self._measured, self._spec = workers, measured, spec
        self._workload, self._scheme, self._objective = workload, scheme, objective
        self._costs: dict[tuple[str, ...], CostModel] = {}  # last ones, by schemes
        self._policy, self._quality, self._note = policy, quality, note

    def anew(self) -> PlanResult:
        """The best plan, whatever ran before."""
        cluster = self._workers.cluster
        if self._quality is not None:
            return self._best_within(self._quality)
        if self._scheme is not None:
            return self._best_in(self._scheme, cluster)
        return first_that_fits(self._spec, cluster, self._workload, self._best_in)[0]

    def keeping(self, plan: Plan) -> PlanResult:
        """The best plan in which every layer keeps its scheme: requests under way go on with it
        token for token. Where some are on disk now, some may be again."""
        problem = keeping_schemes(self._problem(_schemes_of(plan)), plan)
        on_disk = any(stage.streamed for stage in plan.stages)
        chosen = (self._with_disks if on_disk else self._planner)(problem)
        return replace(chosen, plan=replace(chosen.plan, rounding=plan.rounding))

    def like(self, plan: Plan) -> PlanResult:
        """In the same schemes if that fits, else the best."""
        try:
            return self.keeping(plan)
        except Infeasible:
            return self.anew()

    def schemes(self, plan: Plan) -> tuple[str, ...]:
        """In which a device is timed before another plan than this one is made with it."""
        return _schemes_of(plan) if self._quality is None else self._quality.schemes

    def score(self, plan: Plan) -> float:
        """Seconds that the objective makes small, of a plan on the devices there are."""
        problem = self._problem(_schemes_of(plan))
        estimate = problem.costs.estimate(plan)
        problem.costs.check_memory(plan)
        return problem.score(estimate)

    def stage_seconds(self, plan: Plan, sequences: int) -> list[float]:
        """What each stage of a plan that was chosen takes for a token of each of so many sequences
        together, without waiting for others. Nothing is measured for it."""
        costs = self._costs_of(plan)
        work = replace(self._workload, sequences=sequences * self._workload.micro_batches)
        estimate = replace(costs, workload=work).estimate(plan)
        return [stage.decode_seconds - stage.trip_seconds for stage in estimate.stages]

    def admission(self, plan: Plan) -> Admission:
        """How requests are let in while a plan that was chosen runs: by the policy, and by what it
        takes for those that are answered together. Nothing is measured for it."""
        return Admission(self._policy, pace_of(self._costs_of(plan), plan))

    def better(self, plan: Plan, *, keep: bool) -> tuple[PlanResult | None, str]:
        """Another plan where that is worth a change, and why, or why not. `keep`: it must keep the
        layers' schemes. Raises DeviceLost only."""
        try:
            return self._compare(plan, keep)
        except (Infeasible, DeviceMemoryError) as reason:
            return None, str(reason)

    def _compare(self, plan: Plan, keep: bool) -> tuple[PlanResult | None, str]:
        chosen = self.keeping(plan) if keep else self.anew()
        if self._quality is None and chosen.plan.schemes != plan.schemes:
            return chosen, f"{chosen.plan.schemes[1]} fits now instead of {plan.schemes[1]}"
        now = self.score(plan)
        then = self.score(chosen.plan)
        gain = 1 - then / now
        if gain < GAIN:
            return (
                None,
                f"another plan would be {max(gain, 0):.0%} quicker; {GAIN:.0%} are worth it",
            )
        return (
            chosen,
            f"{gain:.0%} quicker: {1000 * then:.3g} ms a token instead of {1000 * now:.3g}",
        )

    def _best_within(self, quality: LossBudget) -> PlanResult:
        problem = self._problem(quality.schemes)
        try:
            chosen, problem = quality.best(problem, self._note, planner=self._with_disks)
        except (InputError, NonFinite) as error:  # for lack of memory here, say
            raise Infeasible(f"what a plan loses cannot be measured: {error}") from None
        self._costs[_schemes_of(chosen.plan)] = problem.costs
        return chosen

    def _best_in(self, scheme: str, cluster: Cluster) -> PlanResult:
        check_size(self._spec, scheme, cluster, self._workload)
        problem = self._problem((scheme,))
        problem = replace(problem, costs=replace(problem.costs, cluster=cluster), pins=problem.pins)
        return self._with_disks(problem)

    def _costs_of(self, plan: Plan) -> CostModel:
        """By which a plan was chosen."""
        return self._costs[_schemes_of(plan)]

    def _problem(self, schemes: tuple[str, ...]) -> Problem:
        cluster, profile = self._workers.cluster, self._measured.profile(schemes)
        costs = CostModel(self._spec, cluster, profile, self._workload)
        self._costs[schemes] = costs
        return Problem(costs, schemes, self._objective)


def _schemes_of(plan: Plan) -> tuple[str, ...]:
    return tuple(dict.fromkeys(plan.schemes))
