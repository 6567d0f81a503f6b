"""The joint planner against the truth, against every other planner, and against itself."""

import dataclasses
import importlib
from itertools import combinations, groupby, pairwise, permutations, product

import numpy as np
import pytest

from edgewise.clusters import Cluster
from edgewise.errors import Infeasible
from edgewise.planning import PLANNERS, PlanResult, Problem
from edgewise.planning.joint import joint
from edgewise.planning.joint.labels import RouteSearch
from edgewise.planning.joint.orders import Orders
from edgewise.planning.joint.planner import TARGET
from edgewise.planning.joint.routes import Routes
from edgewise.planning.joint.stages import stage_costs
from edgewise.planning.joint.view import View, view_of
from edgewise.planning.joint.walks import Walks
from edgewise.planning.problem import Objective
from tests.planning.brute import Placement, brute_force
from tests.planning.problems import mixed_problem, random_problem
from tests.seeds import seeds

ROUNDING = 1e-9
SLOW = ("dilemma", "edgeshard-exact", "llm-pq", "joint")


def plan_of(name: str, problem: Problem) -> PlanResult | None:
    try:
        return PLANNERS[name](problem)
    except Infeasible:
        return None


def test_problems_agree_with_all_plans_and_gaps_hold() -> None:
    found_equal = planned = 0
    tried = seeds(30, 150)
    for seed in tried:
        problem = mixed_problem(seed)
        best, ours = brute_force(problem), plan_of("joint", problem)
        if best is None:
            assert ours is None, seed
            continue
        assert ours is not None, seed
        score = problem.score(ours.estimate)
        assert score >= best.score * (1 - ROUNDING), seed
        assert ours.gap is not None, seed
        assert score * (1 - ours.gap) <= best.score * (1 + ROUNDING), seed
        assert ours.gap <= TARGET, seed
        found_equal += score <= best.score * (1 + ROUNDING)
        planned += 1
    assert planned >= len(tried) // 2
    assert found_equal >= planned * 0.9  # the search ends where it is near enough


def solvable(tried: list[int]) -> list[tuple[int, Problem, Placement]]:
    """Problems that have a plan, and the best of all plans."""
    problems = [
        (seed, mixed_problem(seed) if seed % 2 else random_problem(seed, tight=True))
        for seed in tried
    ]
    return [
        (seed, problem, best)
        for seed, problem in problems
        if (best := brute_force(problem)) is not None
    ]


def test_every_program_bounds_the_best_of_all_plans() -> None:
    compared = 0
    for seed, problem, best in solvable(seeds(40, 200)):
        view, limit = view_of(problem), best.score * (1 + ROUNDING)
        assert Walks(view).best(100, 10.0)[0] <= limit, seed
        order = tuple(view.tables.names.index(name) for name, _ in groupby(best.devices))
        orders = Orders(view, order)
        assert orders.relaxed <= limit, seed
        bound, placed = orders.best(1000, 10.0, float("inf"))
        assert bound <= limit, seed
        assert placed is not None, seed
        compared += 1
    assert compared >= 20


def test_routes_bound_the_best_of_all_plans_whose_devices_come_once() -> None:
    compared = 0
    for seed, problem, best in solvable(seeds(60, 240)):
        view, limit = view_of(problem), best.score * (1 + ROUNDING)
        order = [name for name, _ in groupby(best.devices)]
        if len(set(order)) < len(order):
            continue
        period = limit / view.lanes if problem.objective is Objective.THROUGHPUT else float("inf")
        for price in (0.0, 0.1, 1.0, 10.0):
            routes = Routes(view, price, np.zeros(len(view.groups)), period)
            assert routes.ascend(limit / view.unit, 30) * view.unit <= limit, (seed, price)
            search = RouteSearch(routes, 2 * limit / view.unit, 10_000)
            ends = search.run()
            assert search.complete
            assert ends[0][0] * view.unit <= limit, (seed, price)
        compared += 1
    assert compared >= 20


def least_cost(view: View, price: float, stage: tuple[int, int, int]) -> float:
    """Of all schemes of a stage that fit on its device, beside layers that may lie only there."""
    g, a, b = stage
    j, least = view.groups[g][0], float("inf")
    only = [i for i, may in enumerate(view.tables.allowed) if may[j] and may.sum() == 1]
    others = [view.tables.size[view.usable[:, i, j], i] for i in only if not a <= i < b]
    room = view.tables.room[j] - sum(min(sizes, default=float("inf")) for sizes in others)
    for chosen in product(range(len(view.tables.schemes)), repeat=b - a):
        pairs = list(zip(chosen, range(a, b), strict=True))
        if all(view.usable[s, i, j] for s, i in pairs):
            cost = sum(view.costs.seconds[s, i, j] / view.unit for s, i in pairs)
            cost += price * sum(view.scored[s, i] for s, i in pairs)
            if sum(view.tables.size[s, i] for s, i in pairs) <= room:
                least = min(least, float(cost))
    return least


def test_stages_cost_no_more_than_their_best_schemes_and_nearly_that() -> None:
    compared = equal = 0
    for seed in range(20):
        view = view_of(mixed_problem(seed))
        table, layers = stage_costs(view, 1.0), view.tables.num_layers
        for g, (a, b) in product(range(len(view.groups)), combinations(range(layers + 1), 2)):
            least = least_cost(view, 1.0, (g, a, b))
            assert table[g, a, b] <= least * (1 + ROUNDING), (seed, g, a, b)
            compared += 1
            equal += table[g, a, b] >= least * (1 - ROUNDING)
    assert compared > 100
    assert equal >= 0.9 * compared


def all_routes(routes: Routes) -> list[float]:
    """What every route costs that visits each group once, less what the budget is worth."""
    values, groups = [], range(len(routes.fees))
    for count in range(1, len(groups) + 1):
        inner = combinations(range(1, routes.layers), count - 1)
        for cuts, order in product(list(inner), permutations(groups, count)):
            ends = pairwise((0, *cuts, routes.layers))
            stages = zip(order, ends, strict=True)
            cost = sum(routes.costs[g, a, b] for g, (a, b) in stages)
            cost += routes.start[order[0]] + routes.end[order[-1]]
            values.append(cost + sum(routes.move[g, h] for g, h in pairwise(order)))
    return [float(value) - routes.spent for value in values]


def test_labels_lead_to_the_best_route_whatever_the_fees() -> None:
    for seed, price in product(range(12), (0.0, 1.0)):
        view = view_of(random_problem(seed))
        routes = Routes(view, price, np.zeros(len(view.groups)))
        best = min(all_routes(routes))
        for fees in (0.0, 0.5, 3.0):
            routes.fees = fees * np.arange(len(routes.fees))
            ends = RouteSearch(routes, best * 1.01, 10_000).run()
            assert ends[0][0] == pytest.approx(best, rel=1e-9), (seed, fees)


def test_large_problems_are_searched_with_bounds_that_hold(monkeypatch) -> None:
    """Small ones, as if they were large, beside all plans."""
    monkeypatch.setattr(importlib.import_module("edgewise.planning.joint.planner"), "LARGE", 0)
    near = planned = returning = 0
    for seed, problem, best in solvable(seeds(40, 200)):
        mine = plan_of("joint", problem)
        if mine is None:
            continue
        planned += 1
        score, order = problem.score(mine.estimate), [name for name, _ in groupby(best.devices)]
        assert score >= best.score * (1 - ROUNDING), seed
        near += score <= best.score * 1.01
        if len(set(order)) < len(order):
            returning += 1
            continue
        assert mine.gap is not None, seed
        assert score * (1 - mine.gap) <= best.score * (1 + ROUNDING), seed
    assert planned >= 20
    assert near + returning >= 0.8 * planned


def test_is_never_worse_than_any_quick_planner() -> None:
    compared = 0
    tried = seeds(40, 240)
    for seed in tried:
        problem = mixed_problem(seed) if seed % 2 else random_problem(seed, tight=seed % 4 == 0)
        mine = plan_of("joint", problem)
        for name in PLANNERS:
            if name in SLOW or (other := plan_of(name, problem)) is None:
                continue
            assert mine is not None, (seed, name)
            limit = problem.score(other.estimate) * (1 + ROUNDING)
            assert problem.score(mine.estimate) <= limit, (seed, name)
            compared += 1
    assert compared >= 2 * len(tried)


def test_a_larger_budget_or_another_device_never_makes_it_worse() -> None:
    compared = 0
    tried = seeds(25, 100)
    for seed in tried:
        problem = mixed_problem(seed)
        mine = plan_of("joint", problem)
        if mine is None:
            continue
        larger = dataclasses.replace(problem, budget=problem.budget * 2, pins=problem.pins)
        wider = plan_of("joint", larger)
        assert wider is not None, seed
        limit = problem.score(mine.estimate) * (1 + TARGET)
        assert problem.score(wider.estimate) <= limit, seed
        for name in set(problem.devices) - set(problem.pinned.values()) - problem.required:
            if name == problem.source:
                continue
            fewer = plan_of(
                "joint", dataclasses.replace(problem, forbidden=problem.forbidden | {name})
            )
            if fewer is not None:
                least = problem.score(mine.estimate) * (1 - TARGET)
                assert problem.score(fewer.estimate) >= least, (seed, name)
                compared += 1
    assert compared >= len(tried) // 5


@pytest.mark.parametrize("name", ["edgeshard-exact", "dilemma", "joint"])
def test_nothing_is_proven_of_first_tokens_of_prompts_in_chunks(name: str) -> None:
    """The time to such a token is no sum of what layers take."""
    problem = random_problem(3)
    longer = dataclasses.replace(problem.costs.workload, prompt_tokens=600)
    costs = dataclasses.replace(problem.costs, workload=longer)
    weighing = Problem(costs, first_token_weight=0.5)
    assert not weighing.is_sum
    result = PLANNERS[name](weighing)
    assert (result.status, result.gap) == ("heuristic", None)
    assert Problem(costs).is_sum
    assert Problem(problem.costs, first_token_weight=0.5).is_sum


def test_infeasible_names_the_constraint_and_the_shortage() -> None:
    costs = random_problem(0, tight=False).costs
    devices = tuple(
        dataclasses.replace(x, memory_bytes=x.memory_bytes - costs.capacity_bytes(x.name) + 100)
        for x in costs.cluster.devices
    )
    cluster = Cluster(devices, costs.cluster.links, costs.cluster.source)
    with pytest.raises(Infeasible, match=r"too little in all|would need") as caught:
        joint(Problem(dataclasses.replace(costs, cluster=cluster)))
    assert caught.value.shortage_bytes is not None
    assert caught.value.shortage_bytes > 0
    with pytest.raises(Infeasible, match=r"exceeds the budget of -1 by "):
        joint(Problem(costs, budget=-1.0))


def test_says_what_binds_and_why_devices_are_unused() -> None:
    said = [x.explanation for seed in range(60) if (x := plan_of("joint", mixed_problem(seed)))]
    said += [
        x.explanation
        for seed in range(60)
        if (x := plan_of("joint", random_problem(seed, tight=True)))
    ]
    text = "\n".join(said)
    for part in ("memory of '", "quality (loss", "unused: adding it costs", "would help most"):
        assert part in text, part
