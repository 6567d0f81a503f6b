"""A plan's quality budget, kept: the plan is measured, and made again until its loss holds."""

from dataclasses import replace

from rich.console import Console

from edgewise.cli.terminal import bars, plan_table, progress
from edgewise.planning import PLANNERS, PlanResult, Problem
from edgewise.plans import Plan
from edgewise.quality.calibration import Calibration
from edgewise.quality.plan_loss import Loss, plan_losses
from edgewise.quality.promise import Kept, Round, keep
from edgewise.quality.rounding import calibration_text
from edgewise.quantization.store import Store

# Text that a plan's true loss is measured on: none it was made by.
HELD_OUT = Calibration(count=64, seed=2)


def keep_promise(
    model: str, problem: Problem, chosen: PlanResult, rounding: str | None, screen: Console
) -> Kept | None:
    """The plan whose measured loss is within the problem's budget; None where losses are in a unit
    that is not measured here. Raises Infeasible where it cannot be kept."""
    sensitivity = problem.costs.sensitivity
    assert sensitivity is not None  # without it there is no budget
    if sensitivity.metric != "kl":
        screen.print(f"The loss of this plan is predicted ({sensitivity.metric}), not measured.")
        return None
    ids = calibration_text(model, HELD_OUT, bars(screen.quiet))

    def plan_within(budget: float) -> PlanResult:
        if budget == problem.budget:
            return chosen
        return PLANNERS[chosen.planner](replace(problem, budget=budget))

    def loss_of(plan: Plan) -> Loss:
        with progress("measuring the plan", problem.num_layers, screen.quiet) as advance:
            return plan_losses(
                model,
                [plan.schemes],
                ids,
                method=rounding,
                cache=plan.cache,
                store=Store.default(),
                on_step=advance,
            )[0]

    def say(found: Round) -> None:
        share = found.measured / sensitivity.reference
        held = "within" if found.upper <= problem.budget else "above"
        screen.print(
            f"Loss: {found.predicted:.4g} predicted, {found.measured:.4g} measured ({share:.2%} of "
            f"the model's own), surely at most {found.upper:.4g}, {held} the budget of "
            f"{problem.budget:.4g} nats per token"
        )

    kept = keep(problem.budget, plan_within, loss_of, say)
    if len(kept.rounds) > 1:
        screen.print(plan_table(kept.result))
    return kept
