"""Solo: the whole model on the source. The bar that every distributed plan has to clear."""

import time

from edgewise.planning.problem import PlanResult, Problem, result


def solo(problem: Problem) -> PlanResult:
    """Raises Infeasible where the source is too small."""
    began = time.perf_counter()
    devices = [problem.source] * problem.num_layers
    return result(problem, "solo", devices, "fixed", began, "everything on the source")
