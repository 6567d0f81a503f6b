"""Plans for what adapters have layers do, against the truth about all placements: exits of windows
that vote, and trips to the source for what is private."""

import dataclasses

import pytest

from edgewise.errors import Infeasible, ProfileError
from edgewise.planning import PLANNERS, PlanResult, Problem
from edgewise.simulation import simulate_plan, together
from edgewise.specs import ExtraWork, LayerKind, PrivateParts
from tests.planning.brute import Arithmetic, brute_force
from tests.planning.problems import adapted_problem, mixed_problem
from tests.planning.told import told
from tests.seeds import seeds

ROUNDING = 1e-9
SEEDS = seeds(36, 150)


def plan_of(name: str, problem: Problem) -> PlanResult | None:
    try:
        return PLANNERS[name](problem)
    except Infeasible:
        return None


def test_problems_are_of_all_kinds_and_cost_more() -> None:
    votes = private = dearer = unreached = 0
    for seed in SEEDS:
        problem, plain = adapted_problem(seed), mixed_problem(seed)
        work = problem.costs.workload
        votes += work.extra.branches
        private += work.extra.private is not None
        best, without = brute_force(problem), brute_force(plain)
        unreached += best is None and without is not None
        dearer += best is not None and without is not None and best.score > without.score
    assert votes >= len(SEEDS) // 4 and private >= len(SEEDS) // 3
    assert dearer >= len(SEEDS) // 2


@pytest.mark.parametrize("name", PLANNERS)
def test_every_planner_predicts_what_adding_up_by_hand_gives(name: str) -> None:
    compared = 0
    for seed in SEEDS:
        problem = adapted_problem(seed)
        if (planned := plan_of(name, problem)) is None:
            continue
        sums, estimate = Arithmetic(problem), planned.estimate
        devices = [stage.device for stage in planned.plan.stages for _ in stage.schemes]
        rows = sums.rows(devices, planned.plan.schemes)
        said = estimate.decode_seconds, estimate.prefill_seconds, estimate.bottleneck_seconds
        truth = (sums.round_trips(*rows), sums.first_tokens(*rows), sums.bottlenecks(*rows))
        assert said == pytest.approx([float(x[0]) for x in truth], rel=ROUNDING), told(problem)
        compared += 1
    assert compared >= len(SEEDS) // 6


@pytest.mark.parametrize("name", ["dilemma", "joint"])
def test_is_as_near_to_the_best_as_it_says(name: str) -> None:
    planned = 0
    for seed in SEEDS:
        problem = adapted_problem(seed)
        ours, best = plan_of(name, problem), brute_force(problem)
        assert (ours is None) == (best is None), told(problem)
        if ours is None or best is None:
            continue
        score = problem.score(ours.estimate)
        assert score >= best.score * (1 - ROUNDING), told(problem)
        if ours.gap is not None:
            assert score * (1 - ours.gap) <= best.score * (1 + ROUNDING), told(problem)
        planned += 1
    assert planned >= len(SEEDS) // 2


def test_the_simulator_takes_what_the_cost_model_says() -> None:
    compared = 0
    for seed in SEEDS:
        problem = adapted_problem(seed)
        if (planned := plan_of("joint", problem)) is None:
            continue
        work = dataclasses.replace(problem.costs.workload, sequences=2, micro_batches=1)
        costs = dataclasses.replace(problem.costs, workload=work)
        estimate = costs.estimate(planned.plan)
        asked = together(2, work.prompt_tokens, work.new_tokens)
        times = simulate_plan(costs, planned.plan, asked).requests[0].token_seconds
        expected = [
            estimate.prefill_seconds + i * estimate.decode_seconds for i in range(work.new_tokens)
        ]
        assert times == pytest.approx(expected, rel=ROUNDING), told(problem)
        compared += 1
    assert compared >= len(SEEDS) // 2


def test_what_was_not_timed_with_it_is_not_guessed() -> None:
    problem = mixed_problem(0)
    work = dataclasses.replace(problem.costs.workload, extra=ExtraWork(ends=(1, 2, 3, 4)))
    costs = dataclasses.replace(problem.costs, workload=work)
    head = problem.num_layers - 1
    with pytest.raises(ProfileError, match="no decode time of head, 5 exits in fp32 on"):
        costs.decode_seconds(head, problem.source, "fp32")


def test_blocks_on_the_source_send_nothing() -> None:
    """And the trips of others are what a stage waits, not what it computes."""
    for seed in SEEDS:
        costs = adapted_problem(seed).costs
        private, source = costs.workload.extra.private, costs.cluster.source
        for layer, spec in enumerate(costs.model.layers):
            for device in costs.cluster.devices:
                seconds = costs.trip_seconds(layer, device.name)
                asks = private is not None and spec.kind is LayerKind.BLOCK
                assert (seconds > 0) is (asks and device.name != source)


def test_numbers_go_together_by_matrix() -> None:
    assert PrivateParts(8, (("q", "k", "v"), ("o",))).numbers == (24, 8)
