"""The least loss that fits, against all placements of small problems."""

import dataclasses
import math
from functools import cache

import pytest

from edgewise.errors import Infeasible
from edgewise.planning import PLANNERS, Problem
from edgewise.planning.least_loss import least_planned_loss
from tests.planning.brute import Arithmetic, Choice, placements
from tests.planning.problems import mixed_problem
from tests.planning.test_contract import alone
from tests.planning.told import told
from tests.seeds import seeds

SEEDS = seeds(60, 200)


@cache
def judged() -> tuple[Problem, ...]:
    """Those of which the losses are known."""
    problems = map(mixed_problem, SEEDS)
    return tuple(x for x in problems if x.costs.sensitivity is not None)


def least_of_all(problem: Problem, among: Choice | None = None) -> float | None:
    """By trying every placement."""
    sums = Arithmetic(dataclasses.replace(problem, budget=math.inf))
    losses = sums.total_losses(*placements(sums, among=among))
    return min(losses[losses < math.inf], default=None)


@pytest.mark.parametrize(("planner", "among"), [("joint", None), ("solo", alone)])
def test_no_placement_that_fits_loses_less(planner: str, among: Choice | None) -> None:
    some, none = 0, 0
    for problem in judged():
        expected = least_of_all(problem, among)
        least = least_planned_loss(problem, PLANNERS[planner])
        if expected is None:
            assert least is None, told(problem)
            none += 1
        else:
            assert least == pytest.approx(expected, rel=1e-9, abs=1e-12), told(problem)
            some += 1
    assert some >= len(judged()) // 2
    assert none >= 1


def test_a_budget_of_that_much_has_a_plan_and_a_smaller_one_none() -> None:
    for problem in judged()[:20]:
        least = least_planned_loss(problem, PLANNERS["joint"])
        if least is None:
            continue
        within = dataclasses.replace(problem, budget=least)
        assert PLANNERS["joint"](within).estimate.loss <= least * (1 + 1e-9)
        if least > 0:
            with pytest.raises(Infeasible):
                PLANNERS["joint"](dataclasses.replace(problem, budget=least * (1 - 1e-6)))
