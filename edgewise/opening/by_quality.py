"""The quickest plan whose loss, when measured, is within a budget."""

from collections.abc import Callable
from dataclasses import dataclass, replace

from edgewise.costs import CostModel
from edgewise.errors import Infeasible
from edgewise.opening.default_scheme import candidates
from edgewise.opening.profile import cached_profile, check_reachable
from edgewise.opening.promise import keep_promise
from edgewise.opening.remedy import with_remedy
from edgewise.opening.sensitivity import Asked, cached_sensitivity
from edgewise.opening.wanted import Decided, Wanted
from edgewise.planning import Planner, PlanResult, Problem
from edgewise.planning.joint import joint
from edgewise.quality.rounding import Show, rounding_for, unseen
from edgewise.sensitivities import Sensitivity
from edgewise.specs import ModelSpec


@dataclass(frozen=True, slots=True)
class LossBudget:
    """A loss that plans of a model may add, and what each of its layers loses in the schemes that
    they choose among."""

    model: str
    schemes: tuple[str, ...]
    sensitivity: Sensitivity
    budget: float
    rounding: str | None

    @staticmethod
    def of(model: str, quality: str, spec: ModelSpec, show: Show) -> "LossBudget":
        """Measured once, then found in the cache."""
        schemes = candidates(spec)
        rounding = rounding_for(model, schemes, None, show)
        sensitivity, _, _ = cached_sensitivity(Asked(model, schemes), show=show)
        return LossBudget(model, schemes, sensitivity, sensitivity.budget(quality), rounding)

    def best(
        self,
        problem: Problem,
        note: Callable[[str], None],
        show: Show = unseen,
        planner: Planner = joint,
    ) -> tuple[PlanResult, Problem]:
        """The quickest plan of this planner that keeps the budget, and the problem with the
        predicted loss within which that one was found. Raises Infeasible where none does,
        InputError and NonFinite where the loss cannot be measured."""
        problem = replace(
            problem,
            costs=replace(problem.costs, sensitivity=self.sensitivity),
            schemes=self.schemes,
            budget=self.budget,
        )
        try:
            chosen = planner(problem)
        except Infeasible as error:
            raise with_remedy(problem, planner, error) from None
        kept = keep_promise(self.model, problem, chosen, planner, self.rounding, show, note)
        if kept is not None:
            chosen, problem = kept.result, replace(problem, budget=kept.allowed)
        return replace(chosen, plan=replace(chosen.plan, rounding=self.rounding)), problem


def plan_by_quality(
    wanted: Wanted, quality: str, spec: ModelSpec, show: Show, note: Callable[[str], None]
) -> Decided:
    """Measured once, then found in the cache. Raises Infeasible where no plan keeps the budget."""
    check_reachable(wanted.cluster)
    asked = LossBudget.of(wanted.model, quality, spec, show)
    work = wanted.workload.rounded_up(spec.max_context)
    what = wanted.model, spec, wanted.cluster, asked.schemes
    profile, _, _ = cached_profile(*what, show=show, extra=work.extra)
    costs = CostModel(spec, wanted.cluster, profile, work)
    chosen, problem = asked.best(Problem(costs, asked.schemes), note, show)
    return Decided(chosen.plan, problem)
