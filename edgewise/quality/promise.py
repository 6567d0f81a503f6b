"""A quality budget is a promise: a plan is made on predicted loss, then its true loss is measured,
and if that may be too much, the planner gets a smaller budget and tries again.

"May" is the upper end of an interval, and every attempt is measured on fresh text, which neither it
nor any plan before it was decided by. Attempt i = 0, 1, ... may be wrong with probability
WRONG / 2^(i+1): so the chance that a plan is kept whose mean loss on such text is beyond the budget
is below WRONG, however many attempts it took.

Layers do not lose independently, so what a plan loses can exceed the sum of what its layers lose
one by one; and a planner picks plans that look better than they are on the text measured. The
next budget is the last plan's loss in proportion, and a little less.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace

from edgewise.errors import Infeasible
from edgewise.planning import PlanResult
from edgewise.plans import Plan
from edgewise.quality.plan_loss import Loss
from edgewise.units import round_up

ROUNDS = 8
WRONG = 0.05  # probability
# Of the budget, for the first plan: on SmolLM2 the interval's end was 1.2 to 1.35 times what layers
# lose one by one, and a second attempt takes longer than the rest of the budget is worth.
FIRST = 0.75
MARGIN = 0.95  # of the proportional budget
LEAST_STEP = 0.01  # budgets closer together than this are the same


@dataclass(frozen=True, slots=True)
class Round:
    """One attempt: what the planner was allowed, and what its plan loses."""

    budget: float
    predicted: float
    measured: float
    upper: float


@dataclass(frozen=True, slots=True)
class Kept:
    """A plan whose measured loss is within the budget, and how it was reached."""

    result: PlanResult
    rounds: tuple[Round, ...]

    @property
    def allowed(self) -> float:
        """The predicted loss within which the plan was found that holds."""
        return self.rounds[-1].budget


def keep(
    budget: float,
    plan_within: Callable[[float], PlanResult],
    loss_of: Callable[[Plan, int], Loss],
    on_round: Callable[[Round], None] = lambda attempt: None,
) -> Kept:
    """Plan, measure, tighten until the measured loss surely holds. `loss_of` measures a plan, on
    other text for every attempt. Raises Infeasible, which says by how much it cannot, and what
    would help."""
    rounds, tried = list[Round](), dict[object, Round]()
    allowed, too_small, refusal = budget * FIRST, 0.0, None
    for _ in range(ROUNDS):
        try:
            planned = plan_within(allowed)
        except Infeasible as error:
            if not rounds and allowed == budget:
                raise
            # Somewhere between this and the last plan's loss there may be a plan.
            too_small, refusal = allowed, error
            allowed = (too_small + rounds[-1].predicted) / 2 if rounds else budget
            continue
        plan, predicted = planned.plan, planned.estimate.loss
        loses_by = plan.schemes, *plan.rounded.items()
        if loses_by not in tried:
            attempt = len(tried)
            loss = loss_of(plan, attempt)
            upper = loss.upper(WRONG / 2 ** (attempt + 1))
            tried[loses_by] = Round(allowed, predicted, loss.mean, upper)
        rounds.append(replace(tried[loses_by], budget=allowed))
        on_round(rounds[-1])
        if rounds[-1].upper <= budget:
            return Kept(planned, tuple(rounds))
        allowed = max(_tighter(budget, rounds[-1]), (too_small + predicted) / 2)
        if allowed >= predicted * (1 - LEAST_STEP):
            break
    raise _broken(budget, rounds, refusal)


def _tighter(budget: float, last: Round) -> float:
    """Below the last plan's predicted loss, or the planner would give the same one again."""
    return min(last.budget, last.predicted) * budget / last.upper * MARGIN


def _broken(budget: float, rounds: list[Round], error: Infeasible | None) -> Infeasible:
    best = min(rounds, key=lambda attempt: attempt.upper)
    enough = max(best.upper, best.predicted / FIRST)  # for the planner to be allowed it at once
    why = f"no plan is expected to lose less ({error})" if error else f"{len(rounds)} plans tried"
    return Infeasible(
        f"the quality budget of {budget:.4g} cannot be kept: the best plan loses "
        f"{best.measured:.4g} when measured, {best.upper:.4g} at most, "
        f"{best.upper - budget:.4g} too much ({best.predicted:.4g} predicted); {why}. Try "
        f"--quality {round_up(enough)} (nats per token), within which it is, or give more memory "
        "or schemes with more bits",
        shortage_bytes=None if error is None else error.shortage_bytes,
    )
