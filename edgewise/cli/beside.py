"""Other checkpoints of a model, such as `edgewise compress` writes, beside it in a comparison."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

from edgewise.cli.commands import PlanOptions
from edgewise.cli.plan_problem import ANY_QUALITY, make_problem
from edgewise.cli.terminal import bars
from edgewise.errors import Infeasible, InputError
from edgewise.models.checkpoint import open_checkpoint
from edgewise.opening.comparison import Outcomes, compare
from edgewise.planning import PlanResult, Problem
from edgewise.quality.verification import verify_checkpoint
from edgewise.schemes import STORED
from edgewise.specs import ModelSpec


@dataclass(frozen=True, slots=True)
class Beside:
    """A plan of another checkpoint, or why there is none; `own_loss` is what that loses by itself,
    in nats per token."""

    model: str
    outcome: PlanResult | Infeasible
    own_loss: float


def plans_beside(options: PlanOptions, planner: str, problem: Problem) -> list[Beside]:
    """One for each checkpoint, within what its own loss leaves of the problem's budget. Raises
    InputError where losses are in another unit, and what planning for the model itself does."""
    sensitivity = problem.costs.sensitivity
    if options.beside and sensitivity is not None and sensitivity.metric != "kl":
        raise InputError(
            f"losses in {sensitivity.metric} cannot be compared with those of other checkpoints: "
            "leave --beside out, or measure what layers lose in kl"
        )
    return [_beside(other, options, planner, problem.budget) for other in options.beside or ()]


def with_beside(
    problem: Problem, outcomes: Outcomes, planner: str, beside: Sequence[Beside]
) -> tuple[Outcomes, dict[str, str]]:
    """Rows of one table, and what each plan loses, as far as that is known."""
    rows, losses = dict(outcomes), dict[str, str]()
    if problem.costs.sensitivity is not None:
        for name, outcome in outcomes.items():
            if isinstance(outcome, PlanResult):
                losses[name] = f"{outcome.estimate.loss:.3g}"
    for each in beside:
        rows[name := f"{planner} of {each.model}"] = each.outcome
        losses[name] = f"{each.own_loss:.3g} or more"
        if isinstance(each.outcome, PlanResult) and problem.budget < math.inf:
            losses[name] = f"{each.own_loss + each.outcome.estimate.loss:.3g}"
    return rows, losses


def _beside(other: str, options: PlanOptions, planner: str, budget: float) -> Beside:
    spec = open_checkpoint(other).spec
    lost = verify_checkpoint(options.model, other, bars(options.as_json)).mean
    if lost >= budget:
        reason = f"loses {lost:.3g} nats a token by itself, the budget is {budget:.3g}"
        return Beside(other, Infeasible(reason), lost)
    asked = replace(
        options,
        model=other,
        schemes=_schemes(options, spec),
        quality=ANY_QUALITY if budget == math.inf else repr(budget - lost),
        profile=None,
        sensitivity=None,
        frontier=None,
    )
    return Beside(other, compare(make_problem(spec, asked), (planner,))[planner], lost)


def _schemes(options: PlanOptions, spec: ModelSpec) -> str | None:
    """Those asked for, and what is packed already."""
    packed = any(layer.stored for layer in spec.layers)
    return f"{options.schemes},{STORED}" if options.schemes and packed else options.schemes
