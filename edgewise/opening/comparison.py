"""What every planner makes of a problem, and the best of it."""

from collections.abc import Iterable

from edgewise.errors import Infeasible
from edgewise.planning import PLANNERS, QUICK, PlanResult, Problem

Outcomes = dict[str, PlanResult | Infeasible]


def compare(problem: Problem, planners: Iterable[str] = QUICK) -> Outcomes:
    """What each planner makes of the problem: a plan, or why there is none."""
    outcomes: Outcomes = {}
    for name in planners:
        try:
            outcomes[name] = PLANNERS[name](problem)
        except Infeasible as error:
            outcomes[name] = error
    return outcomes


def best(problem: Problem, outcomes: Outcomes) -> PlanResult:
    """The plan with the best predicted score; the simpler planner on a tie.

    Raises Infeasible where no planner found one: with the last, most capable planner's reason.
    """
    plans = [outcome for outcome in outcomes.values() if isinstance(outcome, PlanResult)]
    if not plans:
        raise next(e for e in reversed(outcomes.values()) if isinstance(e, Infeasible))
    return min(plans, key=lambda result: problem.score(result.estimate))
