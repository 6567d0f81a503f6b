"""Devices, their order, the cuts between them and a scheme for every layer, chosen together.

    min  score     over    plans within memory, links, pins and the budget for predicted loss

`search.py` goes on until it has proven to be near the best of all plans, those that return to a
device included; where the programs it solves would be too large, `local.py` finds plans whose
devices come once, with bounds on all such plans, and weaker ones on any.
"""

import time
from dataclasses import replace

from edgewise.errors import Infeasible
from edgewise.planning.joint.explain import Explained
from edgewise.planning.joint.incumbent import Incumbent
from edgewise.planning.joint.local import local_search
from edgewise.planning.joint.search import Search
from edgewise.planning.joint.view import view_of
from edgewise.planning.problem import PlanResult, Problem
from edgewise.planning.tables import INFINITY, why_infeasible

SECONDS, QUICK_SECONDS = 10.0, 1.0
SEARCHING, LARGE_SEARCHING = 0.9, 0.8  # of the time, the rest to explain
TARGET = 0.005  # relative gap at which the search ends
LARGE = 2500  # layers * groups of equal devices * schemes
BRIEF = 3.0  # seconds, in which large problems get less work
OPTIMAL, TINY = 1e-9, 1e-300  # relative gap; seconds


def joint(problem: Problem, time_limit: float = SECONDS, target: float = TARGET) -> PlanResult:
    """The best plan found in about `time_limit` seconds, sooner where it is proven to be within
    `target`. Raises Infeasible where no plan is found."""
    began = time.perf_counter()
    view = view_of(problem)
    large = view.tables.num_layers * len(view.groups) * len(problem.schemes) > LARGE
    searching = LARGE_SEARCHING if large else SEARCHING
    best = Incumbent(view, began, began + searching * time_limit)
    if large:
        every, once = local_search(best, target, time_limit < BRIEF)
    else:
        every = once = Search(best).run(target)
    if best.plan is None and every < INFINITY:
        raise Infeasible("found no plan in time, and no proof that there is none")
    if best.plan is None:
        raise why_infeasible(problem, view.tables)
    gap, most = (max(best.score - x, 0.0) / max(best.score, TINY) for x in (once, every))
    status = ("bounded" if most > OPTIMAL else "optimal") if problem.is_sum else "heuristic"
    said = ["no plan is better"] if status == "optimal" else []
    if most > gap:
        said.append(f"the gap is to plans whose devices come once; to any, it is {most:.1%}")
    if best.late:
        said.append("the clock ended the search, so the next one may end elsewhere")
    return replace(
        best.plan,
        status=status,
        gap={"bounded": gap, "optimal": 0.0}.get(status),
        seconds=time.perf_counter() - began,
        explanation="; ".join((*said, *Explained(view, best.plan).sentences())),
    )


def quick_joint(problem: Problem) -> PlanResult:
    """In a second: for those who wait. Raises Infeasible where no plan is found."""
    return joint(problem, QUICK_SECONDS)
