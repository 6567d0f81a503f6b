"""The joint planner against the truth, against every other planner, and against itself."""

import dataclasses
from collections import Counter

import numpy as np
import pytest

from edgewise.clusters import Cluster
from edgewise.errors import Infeasible
from edgewise.planning import PLANNERS, PlanResult, Problem
from edgewise.planning.joint import joint
from edgewise.planning.joint.solve import solve
from tests.planning.brute import brute_force
from tests.planning.joint_arrays import brute, small
from tests.planning.problems import mixed_problem, random_problem
from tests.seeds import THOROUGH, seeds

ROUNDING = 1e-9
SLOW = ("dilemma", "edgeshard-exact", "llm-pq", "joint")


def plan_of(name: str, problem: Problem) -> PlanResult | None:
    try:
        return PLANNERS[name](problem)
    except Infeasible:
        return None


@pytest.mark.parametrize("passes", [1.0, 2.0, 4.0, np.inf] if THOROUGH else [1.0, np.inf])
def test_arrays_agree_with_brute_force(passes: float) -> None:
    counts: Counter[str] = Counter()
    tried = seeds(16, 80)
    for seed in tried:
        p = small(seed, passes)
        best, found = brute(p), solve(p)
        counts[found.status] += 1
        if best is None:
            assert found.placement is None, seed
            assert found.status == "infeasible", seed
            continue
        assert found.placement is not None, seed
        assert found.status == "optimal", seed
        assert found.placement.objective == pytest.approx(best.objective, rel=1e-7), seed
        assert found.bound <= best.objective * (1 + 1e-7), seed
    assert counts["optimal"] >= len(tried) * 3 / 8
    assert counts["infeasible"] >= len(tried) // 16


def test_problems_agree_with_all_plans_and_gaps_hold() -> None:
    optimal = bounded = equal = 0
    tried = seeds(30, 150)
    for seed in tried:
        problem = mixed_problem(seed)
        best, found = brute_force(problem), plan_of("joint", problem)
        if best is None:
            assert found is None, seed
            continue
        assert found is not None, seed
        score = problem.score(found.estimate)
        assert score >= best.score * (1 - ROUNDING), seed
        assert found.gap is not None, seed
        assert score * (1 - found.gap) <= best.score * (1 + ROUNDING), seed
        equal += score <= best.score * (1 + ROUNDING)
        optimal += found.status == "optimal"
        bounded += found.status == "bounded"
    assert optimal >= len(tried) * 0.4
    assert equal >= (optimal + bounded) * 0.95  # a plan that returns to a device may be missed


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
        if mine is None or mine.status != "optimal":
            continue
        larger = dataclasses.replace(problem, budget=problem.budget * 2, pins=problem.pins)
        found = plan_of("joint", larger)
        assert found is not None, seed
        limit = problem.score(mine.estimate) * (1 + ROUNDING)
        assert problem.score(found.estimate) <= limit, seed
        for name in set(problem.devices) - set(problem.pinned.values()) - problem.required:
            if name == problem.source:
                continue
            fewer = plan_of(
                "joint", dataclasses.replace(problem, forbidden=problem.forbidden | {name})
            )
            if fewer is not None:
                assert problem.score(fewer.estimate) >= problem.score(mine.estimate) * (
                    1 - ROUNDING
                ), (seed, name)
                compared += 1
    assert compared >= len(tried) // 5


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
