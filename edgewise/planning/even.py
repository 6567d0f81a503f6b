"""Even: the same number of layers on every device, the source first. Looks at nothing else."""

import time

from edgewise.planning.problem import PlanResult, Problem, result


def even(problem: Problem) -> PlanResult:
    """Raises Infeasible where one of the equal parts does not fit its device."""
    began = time.perf_counter()
    names = problem.devices[: problem.num_layers]
    each, more = divmod(problem.num_layers, len(names))
    counts = [each + (i < more) for i in range(len(names))]
    devices = [name for name, count in zip(names, counts, strict=True) for _ in range(count)]
    why = f"{problem.num_layers} layers in {len(names)} equal parts"
    return result(problem, "even", devices, "fixed", began, why)
