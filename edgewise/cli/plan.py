"""`edgewise plan`: choose devices, layers and schemes, and say why."""

import json
import math
from dataclasses import asdict, replace

from edgewise.cli.beside import Beside, plans_beside, with_beside
from edgewise.cli.commands import PlanOptions
from edgewise.cli.plan_problem import make_problem
from edgewise.cli.terminal import (
    bars,
    comparison_json,
    comparison_table,
    console,
    plan_table,
    print_json,
)
from edgewise.errors import Infeasible, InputError
from edgewise.models.checkpoint import open_checkpoint
from edgewise.opening.comparison import best, compare
from edgewise.opening.promise import keep_promise
from edgewise.opening.remedy import with_remedy
from edgewise.planning import PLANNERS, Problem
from edgewise.quality.rounding import rounding_for

DEFAULT_PLANNER = "joint"


def run_plan(options: PlanOptions) -> None:
    """Print the plan, or the comparison of all planners; write what was asked for."""
    planner = options.planner or DEFAULT_PLANNER
    if planner not in PLANNERS:
        raise InputError(f"unknown planner '{planner}'; known planners: {', '.join(PLANNERS)}")
    if options.beside and not options.compare:
        raise InputError("--beside is a row of the table that --compare prints: give both")
    model, screen = options.model, console(options.as_json)
    problem = make_problem(open_checkpoint(model).spec, options)
    rounding = rounding_for(model, problem.schemes, options.rounding, bars(options.as_json))
    outcomes = compare(problem, PLANNERS if options.compare else (planner,))
    try:
        chosen = best(problem, outcomes)
    except Infeasible as error:
        raise with_remedy(problem, PLANNERS[planner], error) from None
    beside = plans_beside(options, planner, problem)
    if options.compare:
        every, losses = with_beside(problem, outcomes, planner, beside)
        screen.print(comparison_table(every, chosen.planner, losses))
    else:
        screen.print(plan_table(chosen))
    kept = None
    if problem.budget < math.inf:
        show = bars(options.as_json)
        planned = PLANNERS[chosen.planner]
        kept = keep_promise(model, problem, chosen, planned, rounding, show, screen.print)
    if kept is not None and kept.result is not chosen:
        chosen = kept.result
        screen.print(plan_table(chosen))
    plan = replace(chosen.plan, rounding=rounding)
    if options.out is not None:
        options.out.write_text(plan.to_json() + "\n", encoding="utf-8")
    if options.plot is not None:
        from edgewise.plots import save_gantt

        save_gantt(chosen.estimate, options.plot)
    drawn = _draw_frontier(problem, planner, options)
    if options.as_json:
        document: dict[str, object] = {
            "model": model,
            "plans": comparison_json(outcomes),
            "beside": [_beside_json(x, planner) for x in beside],
            "chosen": chosen.planner,
            "plan": json.loads(plan.to_json()),
            "quality_rounds": None if kept is None else [asdict(x) for x in kept.rounds],
            "frontier": drawn,
        }
        print_json(document)


def _beside_json(beside: Beside, planner: str) -> dict[str, object]:
    (row,) = comparison_json({planner: beside.outcome})
    return {"model": beside.model, "own_loss": beside.own_loss, **row}


def _draw_frontier(
    problem: Problem, planner: str, options: PlanOptions
) -> list[dict[str, object]] | None:
    """Whatever the plan may lose, the picture shows what more, and less, would give."""
    if options.frontier is None:
        return None
    from edgewise.cli.frontier import draw_frontier

    unbounded = replace(problem, budget=math.inf)
    return draw_frontier(unbounded, PLANNERS[planner], options.frontier, options.as_json)
