"""Solo: the whole model on one device. The bar that every distributed plan has to clear."""

from edgewise.errors import Infeasible
from edgewise.planning.problem import PlanResult, Problem, with_uniform_schemes


def solo(problem: Problem) -> PlanResult:
    """The best single device that the pins allow. Raises Infeasible where none is large enough."""

    def place(scheme: str) -> tuple[list[str], str, str]:
        allowed = set(problem.pinned.values()) | problem.required
        if len(allowed) > 1:
            raise Infeasible(f"layers are pinned to several devices: {', '.join(sorted(allowed))}")
        names = [name for name in problem.devices if not allowed or name in allowed]
        if not names:
            raise Infeasible("no device may be used")
        best = min(names, key=lambda name: _seconds(problem, name, scheme))
        return [best] * problem.num_layers, "fixed", f"everything on '{best}'"

    return with_uniform_schemes(problem, "solo", place)


def _seconds(problem: Problem, name: str, scheme: str) -> float:
    """The objective's score, infinite where the device is too small; so is a tie of those."""
    plan = problem.plan([name] * problem.num_layers, [scheme] * problem.num_layers)
    if problem.costs.memory_bytes(plan)[name] > problem.costs.memory_limit(name):
        return float("inf")
    return problem.score(problem.costs.estimate(plan))
