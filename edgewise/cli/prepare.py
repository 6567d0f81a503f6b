"""From a model and a cluster to plans: start the workers, measure, ask every planner."""

from collections.abc import Iterable, Sequence

from edgewise.cli.terminal import finite, progress
from edgewise.errors import Infeasible
from edgewise.planning import PLANNERS, QUICK, PlanResult, Problem
from edgewise.profiles import Profile
from edgewise.profiling import Grid, measure, num_measurements
from edgewise.runtime.workers import Workers
from edgewise.specs import ModelSpec

Outcomes = dict[str, PlanResult | Infeasible]


def measure_cluster(
    workers: Workers,
    model: str,
    spec: ModelSpec,
    schemes: Sequence[str],
    grid: Grid,
    quiet: bool,
) -> Profile:
    """Profile a model on running devices, with a progress bar."""
    total = num_measurements(spec, workers.cluster, schemes, grid)
    with progress("measuring", total, quiet) as advance:
        return measure(workers, model, spec, schemes, grid, on_progress=advance)


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


def comparison_json(outcomes: Outcomes) -> list[dict[str, object]]:
    """The comparison for programs."""
    return [
        {
            "planner": name,
            "feasible": False,
            "reason": str(outcome),
            "shortage_bytes": outcome.shortage_bytes,
            "predicted_seconds_per_token": None,
        }
        if isinstance(outcome, Infeasible)
        else {
            "planner": name,
            "feasible": True,
            "predicted_seconds_per_token": outcome.estimate.decode_seconds,
            "predicted_error": outcome.estimate.decode_error,
            "predicted_prefill_seconds": outcome.estimate.prefill_seconds,
            "predicted_prefill_error": outcome.estimate.prefill_error,
            "memory_bytes": outcome.estimate.memory_bytes,
            "predicted_tokens_per_second": outcome.estimate.tokens_per_second,
            "predicted_loss": finite(outcome.estimate.loss),
            "status": outcome.status,
            "gap": finite(outcome.gap),
            "planning_seconds": outcome.seconds,
            "explanation": outcome.explanation,
            "stages": [
                {"device": s.device, "start": s.start, "end": s.end, "schemes": list(s.schemes)}
                for s in outcome.plan.stages
            ],
        }
        for name, outcome in outcomes.items()
    ]
