"""Planners that prove something, against all plans of hundreds of small random problems."""

import re
from collections import Counter
from dataclasses import replace

import pytest

from edgewise.errors import Infeasible
from edgewise.planning import Objective, PlanResult, Problem
from edgewise.planning.cloud_edge import cloud_edge_even, cloud_edge_opt
from edgewise.planning.dilemma import dilemma
from edgewise.planning.edgeshard import edgeshard
from edgewise.planning.edgeshard_exact import edgeshard_exact
from edgewise.planning.edgeshard_throughput import edgeshard_throughput
from edgewise.planning.problem import Planner
from tests.papers.brute import EveryPlan
from tests.papers.problems import random_problem
from tests.seeds import seeds

SEEDS = seeds(60, 300)
ROUNDING = 1e-9
INFINITY = float("inf")


def solve(planner: Planner, problem: Problem) -> PlanResult | Infeasible:
    try:
        return planner(problem)
    except Infeasible as error:
        return error


def check(problem: Problem, plans: EveryPlan, result: PlanResult, where: int) -> float:
    """The score of a result, after checking that its plan is one that may be and costs what adding
    up by hand gives."""
    row = plans.row(result.plan)
    assert plans.feasible[row], where
    score = problem.score(result.estimate)
    assert score == pytest.approx(float(plans.score()[row]), rel=ROUNDING), where
    return score


@pytest.mark.parametrize(("planner", "per_layer"), [(edgeshard_exact, False), (dilemma, True)])
def test_latency_is_the_least_of_all_plans(planner: Planner, per_layer: bool) -> None:
    counts: Counter[str] = Counter()
    for seed in SEEDS:
        problem = random_problem(seed, per_layer=per_layer, most=6000)
        plans = EveryPlan(problem, per_layer=per_layer)
        best, result = plans.least(plans.score()), solve(planner, problem)
        if isinstance(result, Infeasible):
            assert best == INFINITY, seed
            counts["infeasible"] += 1
            continue
        assert check(problem, plans, result, seed) == pytest.approx(best, rel=1e-8), seed
        # The least plan of one scheme throughout is proven so, but mixed ones may be better.
        proven = per_layer or len(problem.schemes) == 1
        expected = ("optimal", 0.0) if proven else ("heuristic", None)
        assert (result.status, result.gap) == expected, seed
        counts["several" if len(result.plan.devices) > 1 else "alone"] += 1
        counts["again"] += len(result.plan.stages) > len(result.plan.devices)
        counts["mixed"] += len(set(result.plan.schemes)) > 1
    tried = len(SEEDS)
    assert counts["several"] >= tried // 5
    assert counts["infeasible"] >= tried // 20
    assert counts["again"] >= tried // 100
    assert counts["mixed"] >= tried // 10 * per_layer


def test_exact_is_never_slower_than_the_papers_dynamic_program_and_often_faster() -> None:
    faster, tried = 0, seeds(60, 120)
    for seed in tried:
        problem = random_problem(seed, most=6000, tight=True)
        paper, exact = solve(edgeshard, problem), solve(edgeshard_exact, problem)
        if isinstance(paper, PlanResult):
            assert isinstance(exact, PlanResult), seed
            scores = problem.score(exact.estimate), problem.score(paper.estimate)
            assert scores[0] <= scores[1] * (1 + ROUNDING), seed
            faster += scores[0] < scores[1] * (1 - ROUNDING)
        else:
            faster += isinstance(exact, PlanResult)
    assert faster >= len(tried) // 15


def test_bottleneck_is_the_least_of_all_plans_with_one_block_per_device() -> None:
    solved = 0
    for seed in SEEDS:
        problem = random_problem(seed, objective=Objective.THROUGHPUT, most=6000)
        for scheme in problem.schemes:
            one = replace(problem, schemes=(scheme,), pins=problem.pins)
            plans, result = EveryPlan(one), solve(edgeshard_throughput, one)
            least = plans.least(plans.bottleneck, one_block=True)
            if isinstance(result, Infeasible):
                assert least == INFINITY, seed
                continue
            check(one, plans, result, seed)
            assert plans.one_block[plans.row(result.plan)], seed
            bottleneck = result.estimate.bottleneck_seconds
            assert bottleneck == pytest.approx(least, rel=ROUNDING), seed
            tied = plans.bottleneck <= least * (1 + ROUNDING)
            mask = plans.feasible & plans.one_block & tied
            shortest = float(plans.decode[mask].min())
            assert result.estimate.decode_seconds == pytest.approx(shortest, rel=ROUNDING), seed
            solved += 1
    assert solved >= len(SEEDS) * 2 / 3


@pytest.mark.parametrize("objective", Objective)
def test_cloud_edge_opt_is_the_best_cut_and_not_worse_than_half(objective: Objective) -> None:
    better, tried = 0, seeds(50, 150)
    for seed in tried:
        problem = random_problem(seed, objective=objective, most=6000)
        half, best = solve(cloud_edge_even, problem), solve(cloud_edge_opt, problem)
        if isinstance(best, Infeasible):
            assert isinstance(half, Infeasible), seed
            continue
        plans = EveryPlan(problem)
        check(problem, plans, best, seed)
        assert len(best.plan.stages) <= 2
        if isinstance(half, PlanResult):
            check(problem, plans, half, seed)
            kept = half.plan.stages[0]
            assert (kept.device, kept.end) == (problem.source, -(-problem.num_layers // 2)), seed
            scores = problem.score(best.estimate), problem.score(half.estimate)
            assert scores[0] <= scores[1] * (1 + ROUNDING), seed
            better += scores[0] < scores[1]
    assert better >= len(tried) // 15


@pytest.mark.parametrize(
    "planner", [cloud_edge_even, cloud_edge_opt, edgeshard_exact, edgeshard_throughput, dilemma]
)
def test_refusals_name_the_constraint(planner: Planner) -> None:
    refused = 0
    for seed in range(80):
        error = solve(planner, random_problem(seed, most=6000, tight=True))
        if isinstance(error, Infeasible):
            text = r"device '\w' |budget|pinned|has room|nothing (connects|leads)|fit|must not be"
            text += "|in all"
            assert re.search(text, str(error)), str(error)
            refused += 1
    assert refused >= 12


def test_says_how_much_memory_and_quality_are_missing() -> None:
    problem = random_problem(2, tight=False)
    costs = problem.costs
    devices = tuple(
        replace(x, memory_bytes=x.memory_bytes - costs.capacity_bytes(x.name) + 100)
        for x in costs.cluster.devices
    )
    small = replace(costs, cluster=replace(costs.cluster, devices=devices))
    for planner in (edgeshard_exact, edgeshard_throughput, dilemma):
        with pytest.raises(Infeasible, match=r"too little in all|would need") as caught:
            planner(Problem(small, problem.schemes))
        assert caught.value.shortage_bytes is not None
        assert caught.value.shortage_bytes > 0
    with pytest.raises(Infeasible, match=r"exceeds the budget of -1 by "):
        dilemma(Problem(costs, problem.schemes, budget=-1.0))
