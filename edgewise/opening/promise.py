"""A plan's quality budget, kept: the plan is measured, and made again until its loss holds."""

from collections.abc import Callable
from dataclasses import replace

from edgewise.planning import Planner, PlanResult, Problem
from edgewise.plans import Plan
from edgewise.quality.plan_loss import Loss
from edgewise.quality.promise import Kept, Round, keep
from edgewise.quality.rounding import Show
from edgewise.quality.verification import verify
from edgewise.quantization.store import Store


def keep_promise(
    model: str,
    problem: Problem,
    chosen: PlanResult,
    planner: Planner,
    rounding: str | None,
    show: Show,
    note: Callable[[str], None],
) -> Kept | None:
    """The planner's plan whose measured loss is within the problem's budget; None where losses are
    in a unit that is not measured here. `note` is told of every attempt. Raises Infeasible where it
    cannot be kept, InputError and NonFinite where it cannot be measured."""
    sensitivity = problem.costs.sensitivity
    assert sensitivity is not None  # without it there is no budget
    if sensitivity.metric != "kl":
        note(f"The loss of this plan is predicted ({sensitivity.metric}), not measured.")
        return None

    def plan_within(budget: float) -> PlanResult:
        if chosen.estimate.loss <= budget <= problem.budget:
            return chosen
        return planner(replace(problem, budget=budget))

    def loss_of(plan: Plan, attempt: int) -> Loss:
        return verify(
            model,
            plan.schemes,
            attempt,
            method=rounding,
            cache=plan.cache,
            rounded=plan.rounded,
            store=Store.default(),
            show=show,
        )

    def say(attempt: Round) -> None:
        share = attempt.measured / sensitivity.reference
        held = "within" if attempt.upper <= problem.budget else "above"
        note(
            f"Loss: {attempt.predicted:.4g} predicted, {attempt.measured:.4g} measured "
            f"({share:.2%} of the model's own), surely at most {attempt.upper:.4g}, {held} the "
            f"budget of {problem.budget:.4g} nats per token"
        )

    return keep(problem.budget, plan_within, loss_of, say)
