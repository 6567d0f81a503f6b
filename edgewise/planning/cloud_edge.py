"""EdgeShard's two-device baselines (arXiv 2405.14371, section 1.8 of the notes).

The source keeps the first c of N layers; the "cloud", the fastest other device, takes the others:

    even   c = N / 2, rounded up
    opt    the c in 0..N with the best score; c = N leaves everything on the source

Trying every c is exhaustive, so no other single cut between these two devices is better. Without
another device, both leave everything on the source.
"""

from collections.abc import Iterable, Sequence

from edgewise.errors import Infeasible
from edgewise.planning.problem import PlanResult, Problem, with_uniform_schemes


def cloud_edge_even(problem: Problem) -> PlanResult:
    """Half of the layers on the source. Raises Infeasible where a half does not fit."""

    def place(scheme: str) -> tuple[Sequence[str], str, str]:
        cloud, half = _cloud(problem, scheme), -(-problem.num_layers // 2)
        return _cut(problem, cloud, half), "fixed", f"half on the source, half on '{cloud}'"

    return with_uniform_schemes(problem, "cloud-edge-even", place)


def cloud_edge_opt(problem: Problem) -> PlanResult:
    """The best cut between source and cloud. Raises Infeasible with the reason of the cut that
    comes closest to fitting."""

    def place(scheme: str) -> tuple[Sequence[str], str, str]:
        cloud, count = _cloud(problem, scheme), problem.num_layers
        placements = [_cut(problem, cloud, cut) for cut in range(count, -1, -1)]
        devices = _best(problem, scheme, placements)
        kept = sum(name == problem.source for name in devices)
        return devices, "heuristic", f"best of {count + 1} cuts: {count - kept} on '{cloud}'"

    return with_uniform_schemes(problem, "cloud-edge-opt", place)


def _cloud(problem: Problem, scheme: str) -> str:
    """The device besides the source that computes the model fastest; the source if it is alone."""
    if problem.source not in problem.devices:
        raise Infeasible(f"source '{problem.source}' must not be used, but keeps the first layers")
    costs, layers = problem.costs, range(problem.num_layers)
    return min(
        problem.devices[1:],
        key=lambda name: sum(costs.decode_seconds(i, name, scheme) for i in layers),
        default=problem.source,
    )


def _cut(problem: Problem, cloud: str, cut: int) -> list[str]:
    return [problem.source] * cut + [cloud] * (problem.num_layers - cut)


def _best(problem: Problem, scheme: str, placements: Iterable[list[str]]) -> list[str]:
    best: tuple[float, list[str]] | None = None
    reasons = []
    for devices in placements:
        plan = problem.plan(devices, [scheme] * problem.num_layers)
        estimate = problem.costs.estimate(plan)
        try:
            problem.check(plan, estimate)
        except Infeasible as error:
            reasons.append(error)
            continue
        if best is None or problem.score(estimate) < best[0]:
            best = problem.score(estimate), devices
    if best is None:
        raise min(reasons, key=_shortage)
    return best[1]


def _shortage(error: Infeasible) -> float:
    return float("inf") if error.shortage_bytes is None else error.shortage_bytes
