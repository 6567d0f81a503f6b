"""`edgewise plan --frontier FILE`: what quality costs on this cluster, drawn."""

from pathlib import Path

from edgewise.cli.terminal import finite, progress
from edgewise.planning import Planner, PlanResult, Problem
from edgewise.planning.frontier import frontier, uniform_plans
from edgewise.planning.problem import Objective

POINTS = 9


def draw_frontier(
    problem: Problem, planner: Planner, path: Path, quiet: bool
) -> list[dict[str, object]]:
    """Plan under several budgets, and in every single scheme; draw both, and return them as JSON
    objects. Raises InputError for a file that cannot be drawn."""
    from edgewise.plots import FrontierLine, check_ending, save_frontier

    check_ending(path)
    with progress("planning", POINTS + len(problem.schemes), quiet) as advance:
        mixed = frontier(problem, planner, POINTS, advance)
        uniform = uniform_plans(problem, planner, advance)
    lines = [
        FrontierLine("a scheme per layer", [_point(problem, x, "") for x in mixed], True),
        FrontierLine(
            "one scheme throughout",
            [_point(problem, x, x.plan.schemes[0]) for x in uniform],
            False,
        ),
    ]
    latency = problem.objective is Objective.LATENCY
    y = "ms per token" if latency else "ms per token of every sequence"
    save_frontier(lines, path, title=f"{problem.costs.model.name}: what quality costs", y=y)
    return [_json(problem, x, "mixed") for x in mixed] + [
        _json(problem, x, "uniform") for x in uniform
    ]


def _point(problem: Problem, result: PlanResult, label: str) -> tuple[float, float, float, str]:
    memory = sum(result.estimate.memory_bytes.values())
    return result.estimate.loss, problem.score(result.estimate) * 1e3, memory / 1e9, label


def _json(problem: Problem, result: PlanResult, kind: str) -> dict[str, object]:
    return {
        "kind": kind,
        "loss": finite(result.estimate.loss),
        "seconds": problem.score(result.estimate),
        "memory_bytes": sum(result.estimate.memory_bytes.values()),
        "devices": list(result.plan.devices),
        "schemes": list(result.plan.schemes),
    }
