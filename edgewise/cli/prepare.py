"""From a model and a cluster to plans: start the workers, measure, ask every planner."""

from edgewise.cli.terminal import progress
from edgewise.costs import CostModel
from edgewise.errors import Infeasible
from edgewise.planning import PLANNERS, PlanResult, Problem
from edgewise.profiles import Profile
from edgewise.profiling import measure, num_measurements
from edgewise.runtime.local import LocalDevices
from edgewise.specs import Cluster, ModelSpec, Workload

Outcomes = dict[str, PlanResult | Infeasible]


def measure_cluster(
    devices: LocalDevices, model: str, spec: ModelSpec, workload: Workload, scheme: str, quiet: bool
) -> Profile:
    """Profile a model on running devices, with a progress bar."""
    with progress("measuring", num_measurements(devices.cluster), quiet) as advance:
        return measure(devices, model, spec, workload, scheme, on_progress=advance)


def compare(
    spec: ModelSpec, cluster: Cluster, profile: Profile, workload: Workload, scheme: str
) -> Outcomes:
    """What each planner makes of the problem: a plan, or why there is none."""
    problem = Problem(CostModel(spec, cluster, profile, workload), scheme)
    outcomes: Outcomes = {}
    for name, planner in PLANNERS.items():
        try:
            outcomes[name] = planner(problem)
        except Infeasible as error:
            outcomes[name] = error
    return outcomes


def best(outcomes: Outcomes) -> PlanResult:
    """The plan with the least predicted time per token; the simpler planner on a tie.

    Raises Infeasible where no planner found one: with the last, most capable planner's reason.
    """
    found = [outcome for outcome in outcomes.values() if isinstance(outcome, PlanResult)]
    if not found:
        raise next(e for e in reversed(outcomes.values()) if isinstance(e, Infeasible))
    return min(found, key=lambda result: result.estimate.decode_seconds)


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
            "predicted_prefill_seconds": outcome.estimate.prefill_seconds,
            "memory_bytes": outcome.estimate.memory_bytes,
            "status": outcome.status,
            "stages": [
                {"device": s.device, "start": s.start, "end": s.end, "schemes": list(s.schemes)}
                for s in outcome.plan.stages
            ],
        }
        for name, outcome in outcomes.items()
    ]
