"""Plans over quality budgets, against all placements of small problems."""

import dataclasses
import math
from itertools import pairwise

import pytest

from edgewise.planning import Problem
from edgewise.planning.frontier import budgets, frontier, uniform_plans
from edgewise.planning.joint import joint
from tests.planning.brute import Arithmetic, brute_force
from tests.planning.problems import mixed_problem

ROUNDING = 1e-9


def problems() -> list[Problem]:
    """Those with several schemes of known loss and no budget of their own."""
    unbounded = [dataclasses.replace(mixed_problem(seed), budget=math.inf) for seed in range(60)]
    return [x for x in unbounded if len(x.schemes) > 1 and budgets(x, 5) and brute_force(x)]


def test_there_are_enough_problems() -> None:
    assert len(problems()) >= 15


def test_no_plan_of_a_frontier_beats_another_in_both() -> None:
    for problem in problems():
        plans = frontier(problem, joint, 5)
        assert plans
        for a, b in pairwise(plans):
            assert problem.score(b.estimate) < problem.score(a.estimate)
            assert b.estimate.loss >= a.estimate.loss - ROUNDING


def test_every_budget_gets_a_plan_as_good_as_the_best_placement() -> None:
    compared = 0
    for problem in problems()[:15]:
        plans = frontier(problem, joint, 5)
        for budget in budgets(problem, 5):
            best = brute_force(dataclasses.replace(problem, budget=budget))
            if best is None:
                continue
            within = [x for x in plans if x.estimate.loss <= budget * (1 + ROUNDING)]
            score = min(problem.score(x.estimate) for x in within)
            gap = max(x.gap or 0.0 for x in within)
            assert score * (1 - gap) <= best.score * (1 + ROUNDING)
            compared += 1
    assert compared >= 30


def test_budgets_span_what_plans_can_lose() -> None:
    for problem in problems():
        sums = Arithmetic(problem)
        spread = budgets(problem, 5)
        assert spread == sorted(spread)
        least = sum(min(row) for row in sums.losses)
        most = sum(max(row) for row in sums.losses)
        if all(math.isfinite(x) for row in sums.losses for x in row):
            assert spread[0] == pytest.approx(least)
            assert spread[-1] == pytest.approx(most)


def test_a_budget_ends_the_frontier() -> None:
    for problem in problems():
        limit = budgets(problem, 5)[-1] / 2
        for budget in budgets(dataclasses.replace(problem, budget=limit), 5):
            assert budget <= limit


def test_uniform_plans_have_one_scheme_each() -> None:
    for problem in problems()[:10]:
        plans = uniform_plans(problem, joint)
        names = [set(x.plan.schemes) for x in plans]
        assert all(len(x) == 1 for x in names)
        assert len(names) == len({tuple(x) for x in names})
