"""Models whose blocks differ in seconds as well as in bytes, against all plans there are."""

import pytest

from edgewise.errors import Infeasible
from edgewise.planning import PLANNERS
from edgewise.planning.joint.planner import TARGET
from tests.planning.brute import brute_force
from tests.planning.problems import unlike_problem
from tests.seeds import seeds

ROUNDING = 1e-9


def test_blocks_of_several_classes_differ_in_seconds() -> None:
    several = 0
    for seed in seeds(30, 150):
        costs = unlike_problem(seed).costs
        names = dict.fromkeys(costs.model.classes[1:-1])
        kind = costs.cluster.devices[0].kind
        times = {costs.profile.decode_seconds(kind, x, costs.profile.schemes[0], 8) for x in names}
        assert len(times) == len(names), seed
        several += len(names) > 1
    assert several >= 15


@pytest.mark.parametrize("name", ["joint", "dilemma"])
def test_plans_are_near_the_best_of_all_and_bounds_hold(name: str) -> None:
    for seed in seeds(30, 150):
        problem = unlike_problem(seed)
        best = brute_force(problem)
        try:
            result = PLANNERS[name](problem)
        except Infeasible:
            assert best is None or name != "joint", seed
            continue
        assert best is not None, seed
        score = problem.score(result.estimate)
        assert score >= best.score * (1 - ROUNDING), seed
        if name == "joint":
            assert score <= best.score * (1 + TARGET), seed
        if result.gap is not None:
            assert score * (1 - result.gap) <= best.score * (1 + ROUNDING), seed
