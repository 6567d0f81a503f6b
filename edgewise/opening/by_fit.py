"""The best plan in one scheme throughout: the one that is asked for, or the first that fits."""

from collections.abc import Callable
from dataclasses import replace

from edgewise.clusters import Cluster
from edgewise.costs import CostModel
from edgewise.opening.comparison import best, compare
from edgewise.opening.default_scheme import check_size, description, first_that_fits
from edgewise.opening.profile import profile_of_running
from edgewise.opening.wanted import Decided, Wanted
from edgewise.planning import Problem
from edgewise.planning.spilling import spilled
from edgewise.plans import Plan
from edgewise.profiles import Profile
from edgewise.profiling import Grid, read_memory
from edgewise.quality.rounding import Show
from edgewise.runtime.coordinator.workers import Workers
from edgewise.specs import ModelSpec, Workload


def plan_by_fit(
    workers: Workers, wanted: Wanted, spec: ModelSpec, show: Show, note: Callable[[str], None]
) -> Decided:
    """Where there are several devices, by what is kept of them, or measured now. Raises Infeasible,
    DeviceError."""
    cluster, workload = workers.cluster, wanted.workload
    grid = Grid.around(workload.rounded_up(spec.max_context))

    def plan_in(name: str, cluster: Cluster) -> Decided:
        check_size(spec, name, cluster, workload)
        if len(cluster.devices) == 1:
            return _alone(workers, cluster, spec, workload, name)
        profile = profile_of_running(workers, wanted.model, spec, [name], grid, show)
        problem = Problem(CostModel(spec, cluster, profile, workload), (name,))
        return Decided(best(problem, compare(problem)).plan, problem)

    if wanted.scheme is not None:
        return plan_in(wanted.scheme, cluster)
    decided, name = first_that_fits(spec, cluster, workload, plan_in)
    on_disk = any(stage.streamed for stage in decided.plan.stages)
    note(description(spec, name, workload, len(cluster.devices), on_disk=on_disk))
    return decided


def _alone(
    workers: Workers, cluster: Cluster, spec: ModelSpec, workload: Workload, scheme: str
) -> Decided:
    """One device leaves nothing to choose, so no seconds have to be measured."""
    problem = Problem(replace(free_now(workers, spec, workload), cluster=cluster), (scheme,))
    plan = problem.plan(problem.devices * spec.num_layers, (scheme,) * spec.num_layers)
    plan = spilled(problem.costs, plan)
    problem.costs.check_memory(plan)
    return Decided(plan, problem)


def check_free(workers: Workers, spec: ModelSpec, workload: Workload, plan: Plan) -> None:
    """Raises Infeasible where the plan takes more than the machines have free now."""
    free_now(workers, spec, workload).check_memory(plan)


def free_now(workers: Workers, spec: ModelSpec, workload: Workload) -> CostModel:
    """Costs that know the machines' free memory, and no seconds."""
    profile = Profile(spec.digest, (), read_memory(workers), ())
    return CostModel(spec, workers.cluster, profile, workload)
