"""What every planner owes, checked against the truth about hundreds of small random problems."""

import dataclasses
import math
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from functools import cache
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edgewise.clusters import Cluster, Device, Link, Network
from edgewise.costs import CostModel
from edgewise.errors import ClusterError, Infeasible, PlanError
from edgewise.planning import PLANNERS, Objective, PlanResult, Problem
from edgewise.planning.problem import Planner
from edgewise.planning.proportional import shares
from edgewise.profiles import DeviceReading, LayerTiming, Profile
from edgewise.sensitivities import Sensitivity
from edgewise.specs import LayerSpec, ModelSpec, Workload
from tests.kinds import DECODER_KINDS
from tests.planning.brute import Arithmetic, Numbers, Placement, brute_force
from tests.planning.problems import mixed_problem, random_problem
from tests.planning.told import told
from tests.seeds import seeds

SEEDS = seeds(100, 300)
MIXED = SEEDS[: len(SEEDS) // 2]
QUICK = ("solo", "even", "memory", "speed", "edgeshard")
# Those that prove what they find: of these no plan may be missed, nor another status returned.
EXACT = ("edgeshard-exact", "dilemma", "joint")
EXACT_MIXED = ("dilemma", "joint")  # the same where there are several schemes
UNIFORM = [name for name in QUICK if name in PLANNERS]  # those that take one scheme throughout
ROUNDING = 1e-9  # two orders of adding the same numbers differ by less than this


def seeds_of(name: str) -> range:
    """All seeds, or every sixth for planners that may think longer."""
    return SEEDS if name in QUICK else SEEDS[::6]


def mixed_seeds_of(name: str) -> range:
    return MIXED if name in QUICK else MIXED[::3]


def plan_of(planner: Planner, problem: Problem) -> PlanResult | Infeasible:
    try:
        return planner(problem)
    except Infeasible as error:
        return error


@cache
def solve(name: str, seed: int, tight: bool, all_linked: bool = False) -> PlanResult | Infeasible:
    """What a planner makes of a problem."""
    return plan_of(PLANNERS[name], random_problem(seed, tight=tight, all_linked=all_linked))


@cache
def solve_mixed(name: str, seed: int) -> PlanResult | Infeasible:
    return plan_of(PLANNERS[name], mixed_problem(seed))


@cache
def truth(seed: int, tight: bool, all_linked: bool = False) -> Placement | None:
    return brute_force(random_problem(seed, tight=tight, all_linked=all_linked))


@cache
def ideal(seed: int) -> Placement | None:
    """The truth about a tight problem if every device were large enough."""
    return brute_force(random_problem(seed, tight=True), memory=False)


@cache
def mixed_truth(seed: int) -> Placement | None:
    return brute_force(mixed_problem(seed))


def uniform(devices: Numbers, schemes: Numbers) -> np.ndarray:
    """Placements with one scheme throughout."""
    return (schemes == schemes[:, :1]).all(axis=1)


def alone(devices: Numbers, schemes: Numbers) -> np.ndarray:
    """Placements on one device with one scheme throughout."""
    return uniform(devices, schemes) & (devices == devices[:, :1]).all(axis=1)


def devices_of(result: PlanResult) -> tuple[str, ...]:
    """The device of every layer."""
    return tuple(stage.device for stage in result.plan.stages for _ in stage.schemes)


def rows_of(problem: Problem, result: PlanResult) -> tuple[Numbers, Numbers]:
    return Arithmetic(problem).rows(devices_of(result), result.plan.schemes)


def solved(name: str) -> Iterator[tuple[int, bool, Problem, PlanResult]]:
    """Every seed twice, with ample and with tight memory, where the planner finds a plan."""
    for tight in (False, True):
        for seed in seeds_of(name):
            result = solve(name, seed, tight)
            if isinstance(result, PlanResult):
                yield seed, tight, random_problem(seed, tight=tight), result


def solved_mixed(name: str) -> Iterator[tuple[int, Problem, PlanResult]]:
    """Every seed's problem of several schemes and wishes, where the planner finds a plan."""
    for seed in mixed_seeds_of(name):
        result = solve_mixed(name, seed)
        if isinstance(result, PlanResult):
            yield seed, mixed_problem(seed), result


@pytest.fixture(params=PLANNERS)
def name(request: pytest.FixtureRequest) -> str:
    """A planner's name."""
    return str(request.param)


class TestTheTruth:
    """The oracle itself, on a problem small enough for paper."""

    @pytest.mark.parametrize(
        ("devices", "seconds"),
        [
            ("aaa", (1 + 4) + 6 + 4),
            ("aab", (1 + 4) + 6 + (1.5 + 0.5 + 9) + 0.25),
            ("aba", (1 + 4) + (1.5 + 0.5 + 1) + (0.25 + 1 + 4)),
            ("abb", (1 + 4) + (1.5 + 0.5 + 1) + 9 + 0.25),
        ],
    )
    def test_adds_up_every_placement(self, devices: str, seconds: float) -> None:
        assert Arithmetic(by_hand()).seconds(devices) == pytest.approx(seconds, rel=ROUNDING)

    @pytest.mark.parametrize(
        ("a", "b", "fastest"),
        [
            (768, 768, "aba"),
            (512, 256, "aba"),  # to the byte
            (511, 768, "abb"),
            (768, 255, "aaa"),
            (512, 255, None),
            (255, 768, None),  # the embedding belongs on the source
        ],
    )
    def test_finds_the_fastest_that_fits(self, a: int, b: int, fastest: str | None) -> None:
        best = brute_force(by_hand(a=LEAST + a, b=LEAST + b))
        assert (best and "".join(best.devices)) == fastest

    def test_takes_no_link_that_is_missing(self) -> None:
        costs = by_hand(b=10**6, a=LEAST + 511).costs
        profile = dataclasses.replace(costs.profile, links=costs.profile.links[:2])
        cluster = dataclasses.replace(costs.cluster, links=costs.cluster.links[:1])
        without = dataclasses.replace(costs, profile=profile, cluster=cluster)
        assert brute_force(Problem(without)) is None

    def test_takes_the_files_word_for_a_link_that_was_not_measured(self) -> None:
        costs = by_hand().costs
        profile = dataclasses.replace(costs.profile, links=costs.profile.links[:2])
        links = (Link("a", "b", latency_seconds=99), Link("b", "a", 16.0, 2.0))
        cluster = dataclasses.replace(costs.cluster, links=links)
        sums = Arithmetic(Problem(dataclasses.replace(costs, profile=profile, cluster=cluster)))
        there = (1 + 4) + (1.5 + 0.5 + 1)
        assert sums.seconds("aba") == pytest.approx(there + (2 + 1 + 1 + 4), rel=ROUNDING)
        assert sums.seconds("abb") == pytest.approx(there + 9 + (2 + 0.5), rel=ROUNDING)

    @pytest.mark.parametrize(
        ("lanes", "devices", "seconds"),
        [
            (1, "aba", (1 + 4) + (1.5 + 0.5 + 1) + (0.25 + 1 + 4)),
            (2, "aaa", 2 * (1 + 4 + 6 + 4)),
            (2, "aba", 2 * (1 + 4 + 1 + 4)),  # 'a' is visited twice and pays for two steps
            (2, "abb", 2 * (0.5 + 1 + 9)),
        ],
    )
    def test_keeps_the_busiest_device_busy_where_lanes_follow_each_other(
        self, lanes: int, devices: str, seconds: float
    ) -> None:
        costs = by_hand().costs
        work = Workload(2, 2, lanes, lanes)
        problem = Problem(dataclasses.replace(costs, workload=work), objective=Objective.THROUGHPUT)
        sums = Arithmetic(problem)
        assert sums.scores(*sums.rows(devices))[0] == pytest.approx(seconds, rel=ROUNDING)

    def test_weighs_losses_and_widths_layer_by_layer(self) -> None:
        problem = two_schemes(budget=0.5)
        sums = Arithmetic(problem)
        table = sums.rows("aba", ("fp32", "bf16", "fp32"))
        assert sums.total_losses(*table)[0] == 0.5
        assert sums.used("aba", ("fp32", "bf16", "fp32")) == {"a": LEAST + 512, "b": LEAST + 128}
        assert sums.allowed(*table)[0]
        assert not sums.allowed(*sums.rows("aba", ("bf16", "bf16", "fp32")))[0]

    def test_finds_the_best_mix_of_schemes_within_the_budget(self) -> None:
        # bf16 takes half as long. The embedding costs 0.25, the block 0.5, the head 1.
        each = [brute_force(two_schemes(budget=x)) for x in (0, 0.25, 0.5, 0.75, 1, 9)]
        assert [best and (best.devices, best.schemes) for best in each] == [
            (("a", "b", "a"), ("fp32", "fp32", "fp32")),
            (("a", "b", "a"), ("bf16", "fp32", "fp32")),
            (("a", "b", "a"), ("bf16", "fp32", "fp32")),
            (("a", "a", "a"), ("bf16", "bf16", "fp32")),
            (("a", "a", "a"), ("bf16", "bf16", "fp32")),  # the head would save less
            (("a", "a", "a"), ("bf16", "bf16", "bf16")),
        ]

    def test_mixed_problems_ask_for_everything_in_many_combinations(self) -> None:
        problems = [mixed_problem(seed) for seed in MIXED]
        assert sum(mixed_truth(seed) is None for seed in MIXED) >= len(MIXED) // 25
        best = [placement for seed in MIXED if (placement := mixed_truth(seed))]
        assert len(best) >= len(MIXED) * 100 // 150
        assert sum(len(set(x.schemes)) > 1 for x in best) >= len(MIXED) * 20 // 150
        assert sum(len(set(x.devices)) > 1 for x in best) >= len(MIXED) * 30 // 150
        assert sum(math.isfinite(x.budget) for x in problems) >= len(MIXED) * 30 // 150
        assert (
            sum(x.pins is not None and len(x.pins) > 0 for x in problems) >= len(MIXED) * 30 // 150
        )
        assert sum(x.pins == {} for x in problems) >= len(MIXED) * 10 // 150
        assert sum(bool(x.forbidden) for x in problems) >= len(MIXED) * 15 // 150
        assert sum(bool(x.required) for x in problems) >= len(MIXED) * 25 // 150
        assert sum(x.objective is Objective.THROUGHPUT for x in problems) >= len(MIXED) * 50 // 150


def test_a_problem_can_be_told() -> None:
    for seed in range(20):
        problem = mixed_problem(seed)
        text = told(problem)
        assert f"mixed {seed}: {problem.objective}" in text
        assert all(f"device '{name}': " in text for name in problem.devices)
        assert all(f"layer {number} (" in text for number in range(problem.num_layers))


class TestProblem:
    def check(self, problem: Problem, devices: str) -> None:
        plan = problem.plan(devices, ["fp32"] * len(devices))
        problem.check(plan, problem.costs.estimate(plan))

    def refusal(self, problem: Problem, devices: str) -> str:
        with pytest.raises(Infeasible) as caught:
            self.check(problem, devices)
        return str(caught.value)

    def test_a_plan_that_lets_prompts_leave_the_source_is_refused(self) -> None:
        assert by_hand().pinned == {0: "a"}
        assert self.refusal(by_hand(), "baa") == "layer 0 is pinned to 'a', not 'b'"

    def test_it_may_be_allowed_to(self) -> None:
        free = dataclasses.replace(by_hand(), pins={})
        assert free.pinned == {}
        self.check(free, "baa")

    def test_every_pin_holds(self) -> None:
        pinned = dataclasses.replace(by_hand(), pins={1: "b", 2: "a"})
        self.check(pinned, "aba")
        self.check(pinned, "bba")
        assert self.refusal(pinned, "aaa") == "layer 1 is pinned to 'b', not 'a'"
        assert self.refusal(pinned, "abb") == "layer 2 is pinned to 'a', not 'b'"

    def test_a_forbidden_device_is_not_used(self) -> None:
        forbidding = dataclasses.replace(by_hand(), forbidden=frozenset("b"))
        assert forbidding.devices == ("a",)
        self.check(forbidding, "aaa")
        assert self.refusal(forbidding, "aba") == "device 'b' must not be used"

    def test_a_required_device_is_used(self) -> None:
        requiring = dataclasses.replace(by_hand(), required=frozenset("b"))
        self.check(requiring, "aab")
        assert self.refusal(requiring, "aaa") == "device 'b' must be used, but is not"

    @pytest.mark.parametrize(
        "wishes",
        [
            {"forbidden": frozenset("a")},  # where the embedding lies by default
            {"forbidden": frozenset("b"), "required": frozenset("b")},
            {"forbidden": frozenset("b"), "pins": {1: "b"}},
        ],
    )
    def test_wishes_that_contradict_each_other_are_refused(self, wishes: dict[str, Any]) -> None:
        name = min(wishes["forbidden"])
        with pytest.raises(PlanError) as caught:
            dataclasses.replace(by_hand(), **wishes)
        assert str(caught.value) == f"device '{name}' must be used and must not be used"

    @pytest.mark.parametrize(
        "wishes",
        [{"forbidden": frozenset("x")}, {"required": frozenset("x")}, {"pins": {0: "x"}}],
    )
    def test_wishes_about_an_unknown_device_are_refused(self, wishes: dict[str, Any]) -> None:
        with pytest.raises(ClusterError, match=r"^unknown device 'x'; devices: a, b$"):
            dataclasses.replace(by_hand(), **wishes)

    @pytest.mark.parametrize("layer", [-1, 3])
    def test_a_pin_of_a_layer_that_does_not_exist_is_refused(self, layer: int) -> None:
        with pytest.raises(PlanError):
            dataclasses.replace(by_hand(), pins={layer: "a"})

    def test_a_problem_has_a_scheme(self) -> None:
        with pytest.raises(PlanError, match=r"^a problem needs at least one scheme$"):
            dataclasses.replace(by_hand(), schemes=())

    def test_the_budget_bounds_the_loss(self) -> None:
        problem = two_schemes(budget=0.5)
        for schemes, loss in ((("bf16", "fp32", "fp32"), 0.25), (("fp32", "bf16", "fp32"), 0.5)):
            plan = problem.plan("aba", schemes)
            estimate = problem.costs.estimate(plan)
            assert estimate.loss == loss
            problem.check(plan, estimate)
        plan = problem.plan("aba", ("bf16", "bf16", "fp32"))
        with pytest.raises(Infeasible) as caught:
            problem.check(plan, problem.costs.estimate(plan))
        assert str(caught.value) == "the plan's predicted loss of 0.75 exceeds the budget of 0.5"

    def test_a_hop_without_a_link_is_named(self) -> None:
        costs = by_hand().costs
        profile = dataclasses.replace(costs.profile, links=costs.profile.links[:2])
        cluster = dataclasses.replace(costs.cluster, links=costs.cluster.links[:1])
        one_way = Problem(dataclasses.replace(costs, profile=profile, cluster=cluster))
        assert self.refusal(one_way, "aba") == "nothing leads from 'b' to 'a'"
        assert self.refusal(one_way, "abb") == "nothing leads from 'b' to 'a'"
        self.check(one_way, "aaa")

    def test_the_objective_is_what_counts(self) -> None:
        work = Workload(2, 2, 4, 4)
        costs = dataclasses.replace(by_hand().costs, workload=work)
        for objective, weight, expected in (
            (Objective.LATENCY, 0.0, lambda x: x.decode_seconds),
            (Objective.LATENCY, 0.5, lambda x: x.decode_seconds + 0.5 * x.prefill_seconds),
            (Objective.THROUGHPUT, 0.5, lambda x: x.round_seconds()),
        ):
            problem = Problem(costs, objective=objective, first_token_weight=weight)
            estimate = costs.estimate(problem.plan("aba", ["fp32"] * 3))
            assert problem.score(estimate) == expected(estimate)

    def test_neighbours_on_one_device_are_one_stage(self) -> None:
        assert str(by_hand().plan("abb", ["fp32"] * 3)) == (
            "a: layers 0-0 (fp32 x1); b: layers 1-2 (fp32 x2)"
        )

    def test_the_source_comes_first(self) -> None:
        for seed in SEEDS:
            problem = random_problem(seed)
            cluster = problem.costs.cluster
            assert problem.devices[0] == cluster.source
            assert sorted(problem.devices) == sorted(device.name for device in cluster.devices)

    def test_forbidden_devices_are_left_out_and_the_others_keep_their_order(self) -> None:
        for seed in SEEDS:
            problem = mixed_problem(seed)
            names = [device.name for device in problem.costs.cluster.devices]
            ordered = sorted(names, key=lambda name: name != problem.source)
            assert list(problem.devices) == [x for x in ordered if x not in problem.forbidden]


class TestEveryPlanner:
    def test_finds_enough_plans_for_these_tests_to_mean_something(self, name: str) -> None:
        planned = [tight for _, tight, _, _ in solved(name)]
        tried = len(seeds_of(name))
        assert planned.count(False) >= tried * 0.5  # not all: a rule may need a missing link
        assert planned.count(True) >= tried // 40

    def test_places_every_layer_once_in_the_scheme_asked_for(self, name: str) -> None:
        for _, _, problem, result in solved(name):
            plan = result.plan
            plan.check(problem.costs.model, problem.costs.cluster)
            held = [layer for stage in plan.stages for layer in range(stage.start, stage.end)]
            assert held == list(range(problem.num_layers)), told(problem)
            assert set(plan.schemes) == set(problem.schemes), told(problem)

    def test_keeps_the_embedding_on_the_source(self, name: str) -> None:
        for _, _, problem, result in solved(name):
            assert result.plan.stages[0].device == problem.costs.cluster.source, told(problem)

    def test_joins_neighbours_on_one_device_into_a_stage(self, name: str) -> None:
        for _, _, problem, result in solved(name):
            names = [stage.device for stage in result.plan.stages]
            assert all(a != b for a, b in pairwise(names)), told(problem)

    def test_fits_every_device(self, name: str) -> None:
        for _, _, problem, result in solved(name):
            assert Arithmetic(problem).fits(devices_of(result)), told(problem)

    def test_predicts_what_the_cost_model_predicts(self, name: str) -> None:
        for _, _, problem, result in solved(name):
            assert result.estimate == problem.costs.estimate(result.plan), told(problem)

    def test_predicts_what_adding_up_by_hand_gives(self, name: str) -> None:
        for _, _, problem, result in solved(name):
            sums, devices = Arithmetic(problem), devices_of(result)
            seconds = pytest.approx(sums.seconds(devices), rel=ROUNDING)
            assert result.estimate.decode_seconds == seconds, told(problem)
            assert result.estimate.memory_bytes == sums.used(devices), told(problem)

    def test_is_never_faster_than_the_fastest_of_all_placements(self, name: str) -> None:
        for seed, tight, problem, result in solved(name):
            best = truth(seed, tight)
            fastest = math.inf if best is None else best.seconds
            assert result.estimate.decode_seconds >= fastest * (1 - ROUNDING), told(problem)

    def test_claims_no_more_than_it_can_prove(self, name: str) -> None:
        proves = name in EXACT
        for _, _, problem, result in solved(name):
            assert (result.status in ("optimal", "bounded")) is proves, told(problem)
            assert result.status in ("optimal", "bounded", "heuristic", "fixed")
            assert (result.gap is not None) is proves, told(problem)

    def test_says_who_planned_for_how_long_and_why(self, name: str) -> None:
        for _, _, _, result in solved(name):
            assert result.planner == name
            assert 0 <= result.seconds < 5
            assert result.explanation

    def test_makes_the_same_plan_every_time(self, name: str) -> None:
        for seed, _, problem, result in solved(name):
            if seed >= 30:
                continue
            again = PLANNERS[name](problem)
            assert again.plan == result.plan, told(problem)
            assert again.estimate == result.estimate, told(problem)

    def test_refuses_what_no_placement_fits_and_says_where_or_how_much(self, name: str) -> None:
        hopeless = [seed for seed in SEEDS if truth(seed, tight=True, all_linked=True) is None]
        assert len(hopeless) >= len(SEEDS) // 10
        for seed in hopeless:
            if seed in seeds_of(name):
                problem = random_problem(seed, tight=True, all_linked=True)
                error = solve(name, seed, tight=True, all_linked=True)
                assert isinstance(error, Infeasible), told(problem)
                message = str(error)
                if name in UNIFORM:
                    where = r"device '[abcd]' has \d|needs [\d.]+ (B|kB|MB)"
                    assert re.search(where, message), message
                assert message, told(problem)
                if "enough in all" not in message and name in UNIFORM:
                    assert error.shortage_bytes is not None, told(problem)
                assert error.shortage_bytes is None or error.shortage_bytes > 0, told(problem)

    def test_plans_for_a_single_device(self, name: str) -> None:
        for seed in range(20):
            costs = random_problem(seed).costs
            alone = Cluster((costs.cluster.device(costs.cluster.source),), (), costs.cluster.source)
            result = PLANNERS[name](Problem(dataclasses.replace(costs, cluster=alone)))
            assert result.plan.devices == (costs.cluster.source,)
            assert len(result.plan.stages) == 1

    def test_uses_only_links_that_exist(self, name: str) -> None:
        for _, _, problem, result in solved(name):
            assert result.estimate.decode_seconds < math.inf, told(problem)


@pytest.mark.parametrize("name", EXACT)
class TestExactPlanners:
    """Those that prove what they claim; that they claim it is asserted, too."""

    def test_calls_a_plan_optimal_that_is_as_fast_as_the_fastest(self, name: str) -> None:
        claims = 0
        for seed, tight, problem, result in solved(name):
            if result.status == "optimal":
                best = truth(seed, tight)
                assert best is not None, told(problem)
                fastest = pytest.approx(best.seconds, rel=ROUNDING)
                assert result.estimate.decode_seconds == fastest, told(problem)
                assert result.gap == 0.0, told(problem)
                claims += 1
        assert claims >= len(seeds_of(name)) // 2

    def test_is_as_near_to_the_fastest_as_it_says(self, name: str) -> None:
        claims = 0
        for seed, tight, problem, result in solved(name):
            best = truth(seed, tight)
            assert best is not None, told(problem)
            assert result.gap is not None, told(problem)
            least = result.estimate.decode_seconds * (1 - result.gap)
            assert least <= best.seconds * (1 + ROUNDING), told(problem)
            claims += 1
        assert claims >= len(seeds_of(name))

    def test_misses_no_plan(self, name: str) -> None:
        plans, refusals = 0, 0
        for tight in (False, True):
            for seed in seeds_of(name):
                planned = isinstance(solve(name, seed, tight), PlanResult)
                exists = truth(seed, tight) is not None
                assert planned is exists, told(random_problem(seed, tight=tight))
                plans, refusals = plans + exists, refusals + (not exists)
        assert plans >= len(seeds_of(name))
        assert refusals >= 1


@pytest.mark.parametrize("name", EXACT_MIXED)
def test_is_as_near_to_the_best_of_all_schemes_as_it_says(name: str) -> None:
    optimal, near = 0, 0
    for seed, problem, result in solved_mixed(name):
        best, score = mixed_truth(seed), problem.score(result.estimate)
        assert best is not None, told(problem)
        if result.status == "optimal":
            assert score == pytest.approx(best.score, rel=ROUNDING), told(problem)
            assert result.gap == 0.0, told(problem)
            optimal += 1
        elif result.status == "bounded":
            assert result.gap is not None, told(problem)
            assert score * (1 - result.gap) <= best.score * (1 + ROUNDING), told(problem)
            near += 1
    assert optimal + near >= len(mixed_seeds_of(name)) // 8


class TestEveryPlannerWithSchemesAndWishes:
    def test_finds_enough_plans_for_these_tests_to_mean_something(self, name: str) -> None:
        assert sum(1 for _ in solved_mixed(name)) >= len(mixed_seeds_of(name)) * 0.1

    def test_keeps_to_memory_links_budget_pins_and_devices(self, name: str) -> None:
        for _, problem, result in solved_mixed(name):
            sums, table = Arithmetic(problem), rows_of(problem, result)
            assert sums.fitting(*table)[0], told(problem)
            assert sums.allowed(*table)[0], told(problem)
            problem.check(result.plan, result.estimate)

    def test_places_every_layer_once_in_a_scheme_that_was_offered(self, name: str) -> None:
        for _, problem, result in solved_mixed(name):
            result.plan.check(problem.costs.model, problem.costs.cluster)
            assert len(result.plan.schemes) == problem.num_layers, told(problem)
            assert set(result.plan.schemes) <= set(problem.schemes), told(problem)
            names = [stage.device for stage in result.plan.stages]
            assert all(a != b for a, b in pairwise(names)), told(problem)

    def test_predicts_what_adding_up_by_hand_gives(self, name: str) -> None:
        for _, problem, result in solved_mixed(name):
            sums, table, estimate = Arithmetic(problem), rows_of(problem, result), result.estimate
            assert estimate == problem.costs.estimate(result.plan), told(problem)
            predicted = (
                estimate.decode_seconds,
                estimate.prefill_seconds,
                estimate.bottleneck_seconds,
                problem.score(estimate),
                estimate.loss,
            )
            summed = (
                sums.round_trips(*table)[0],
                sums.first_tokens(*table)[0],
                sums.bottlenecks(*table)[0],
                sums.scores(*table)[0],
                sums.total_losses(*table)[0],
            )
            assert predicted == pytest.approx(summed, rel=ROUNDING), told(problem)
            used = sums.used(devices_of(result), result.plan.schemes)
            assert estimate.memory_bytes == used, told(problem)

    def test_is_never_better_than_the_best_of_all_placements(self, name: str) -> None:
        for seed, problem, result in solved_mixed(name):
            best = mixed_truth(seed)
            assert best is not None, told(problem)
            assert problem.score(result.estimate) >= best.score * (1 - ROUNDING), told(problem)

    def test_claims_no_more_than_it_can_prove(self, name: str) -> None:
        for _, problem, result in solved_mixed(name):
            assert result.status in ("optimal", "bounded", "heuristic", "fixed")
            proven = result.status in ("optimal", "bounded")
            assert not proven or name in EXACT_MIXED, told(problem)
            assert (result.gap is not None) is proven, told(problem)

    def test_makes_the_same_plan_every_time(self, name: str) -> None:
        for _, problem, result in solved_mixed(name):
            again = PLANNERS[name](problem)
            assert (again.plan, again.estimate) == (result.plan, result.estimate), told(problem)

    def test_refuses_what_no_placement_satisfies(self, name: str) -> None:
        for seed in mixed_seeds_of(name):
            if mixed_truth(seed) is None:
                problem, error = mixed_problem(seed), solve_mixed(name, seed)
                assert isinstance(error, Infeasible), told(problem)
                assert str(error), told(problem)

    def test_leaves_a_scheme_alone_that_was_never_judged(self, name: str) -> None:
        costs = two_schemes(budget=9.0).costs
        assert costs.sensitivity is not None
        judged = dataclasses.replace(costs.sensitivity, losses={"fp32": (0.0, 0.0, 0.0)})
        costs = dataclasses.replace(costs, sensitivity=judged)
        result = PLANNERS[name](Problem(costs, ("bf16", "fp32"), budget=9.0))
        assert set(result.plan.schemes) == {"fp32"}

    def test_says_that_the_budget_is_too_small(self, name: str) -> None:
        with pytest.raises(Infeasible, match="budget"):
            PLANNERS[name](two_schemes(budget=0.1, schemes=("bf16",)))

    def test_refuses_to_plan_without_a_device(self, name: str) -> None:
        none = dataclasses.replace(by_hand(), pins={}, forbidden=frozenset("ab"))
        with pytest.raises(Infeasible):
            PLANNERS[name](none)


@pytest.mark.parametrize("name", UNIFORM)
class TestUniformSchemes:
    def test_takes_one_scheme_throughout(self, name: str) -> None:
        used = set()
        for _, problem, result in solved_mixed(name):
            assert len(set(result.plan.schemes)) == 1, told(problem)
            used.add(result.plan.schemes[0])
        assert used == {"fp32", "bf16", "fp16"}

    def test_takes_the_scheme_with_which_its_plan_is_best(self, name: str) -> None:
        for seed in MIXED:
            problem, result = mixed_problem(seed), solve_mixed(name, seed)
            each = [
                plan_of(PLANNERS[name], dataclasses.replace(problem, schemes=(scheme,)))
                for scheme in problem.schemes
            ]
            scores = [problem.score(x.estimate) for x in each if isinstance(x, PlanResult)]
            if isinstance(result, PlanResult):
                assert problem.score(result.estimate) == min(scores), told(problem)
            else:
                assert not scores, told(problem)

    def test_a_scheme_more_is_never_worse(self, name: str) -> None:
        for _, problem, result in solved_mixed(name):
            fewer = dataclasses.replace(problem, schemes=problem.schemes[:1])
            with_one = plan_of(PLANNERS[name], fewer)
            if isinstance(with_one, PlanResult):
                score = problem.score(result.estimate)
                assert score <= problem.score(with_one.estimate), told(problem)


class TestSolo:
    def test_puts_everything_on_the_source_exactly_where_that_fits(self) -> None:
        fitting = 0
        for seed in SEEDS:
            problem = random_problem(seed, tight=True)
            result = solve("solo", seed, tight=True)
            fits = Arithmetic(problem).fits([problem.source] * problem.num_layers)
            assert isinstance(result, PlanResult) is fits, told(problem)
            fitting += fits
        assert 0 < fitting < len(SEEDS)

    def test_names_the_source_and_what_it_lacks(self) -> None:
        for seed in SEEDS:
            problem, error = random_problem(seed, tight=True), solve("solo", seed, tight=True)
            if isinstance(error, Infeasible):
                sums = Arithmetic(problem)
                used = sums.used([problem.source] * problem.num_layers)[problem.source]
                assert str(error).startswith(f"device '{problem.source}' has "), told(problem)
                assert error.shortage_bytes == used - sums.room(problem.source), told(problem)

    def test_is_the_best_single_device_and_scheme_that_the_wishes_allow(self) -> None:
        planned = elsewhere = 0
        for seed in MIXED:
            problem, result = mixed_problem(seed), solve_mixed("solo", seed)
            best = brute_force(problem, among=alone)
            assert isinstance(result, PlanResult) is (best is not None), told(problem)
            if isinstance(result, PlanResult) and best is not None:
                score = pytest.approx(best.score, rel=ROUNDING)
                assert problem.score(result.estimate) == score, told(problem)
                planned += 1
                elsewhere += best.devices[0] != problem.source
        assert planned >= len(SEEDS) * 30 // 300
        assert elsewhere >= len(SEEDS) * 10 // 300

    def test_chooses_among_equals_alike_in_every_process(self) -> None:
        script = (
            "from edgewise.planning import PLANNERS\n"
            "from tests.planning.test_contract import equals\n"
            "print(PLANNERS['solo'](equals()).plan.devices[0])"
        )
        chosen = [
            subprocess.run(
                [sys.executable, "-c", script],
                env={**os.environ, "PYTHONHASHSEED": seed},
                capture_output=True,
                text=True,
                check=True,
            ).stdout.strip()
            for seed in "12"
        ]
        assert chosen == ["d0"] * 2


class TestShares:
    @settings(max_examples=200, derandomize=True, deadline=None)
    @given(st.lists(st.floats(0, 1e9), min_size=1, max_size=8), st.integers(1, 40))
    def test_are_whole_in_proportion_and_add_up(self, weights: list[float], total: int) -> None:
        if sum(weights) <= 1e-6:
            weights = [1.0, *weights]
        counts = shares(weights, total)
        assert sum(counts) == total
        for count, weight in zip(counts, weights, strict=True):
            assert count >= 0
            assert abs(count - weight / sum(weights) * total) < 1 + 1e-9

    @pytest.mark.parametrize(
        ("weights", "total", "expected"),
        [
            ([1, 1], 4, [2, 2]),
            ([1, 1], 5, [3, 2]),  # of equal remainders the first
            ([3, 1], 4, [3, 1]),
            ([5, 3, 1], 4, [2, 1, 1]),  # 2.22, 1.33, 0.44
            ([0, 1], 3, [0, 3]),
        ],
    )
    def test_what_is_over_goes_to_the_largest_remainders(
        self, weights: list[float], total: int, expected: list[int]
    ) -> None:
        assert shares(weights, total) == expected

    def test_of_nothing_are_refused(self) -> None:
        with pytest.raises(Infeasible, match=r"^no device has anything to give$"):
            shares([0.0, 0.0], 3)


class TestEven:
    def test_gives_no_device_two_layers_more_than_another(self) -> None:
        for seed in SEEDS:
            problem = random_problem(seed, all_linked=True)
            result = solve("even", seed, tight=False, all_linked=True)
            assert isinstance(result, PlanResult)
            held = [len(stage.schemes) for stage in result.plan.stages]
            assert max(held) - min(held) <= 1, told(problem)
            assert len(held) == min(len(problem.devices), problem.num_layers), told(problem)


class TestProportional:
    """By memory and by speed: the source first, then the others in their order."""

    def check(self, name: str, seed: int, weights: list[float], problem: Problem) -> bool:
        result = solve(name, seed, tight=False, all_linked=True)
        assert isinstance(result, PlanResult)
        names = problem.devices[: problem.num_layers]
        weights = weights[: problem.num_layers]
        held = [devices_of(result).count(device) for device in names]
        assert list(result.plan.devices) == [x for x, n in zip(names, held, strict=True) if n]
        exact = [weight / sum(weights) * problem.num_layers for weight in weights]
        slack = 1.0 if exact[0] >= 1 else 2.0  # the source gets a layer in any case
        assert all(abs(a - b) < slack for a, b in zip(held, exact, strict=True)), told(problem)
        return len(set(held)) > 1

    def test_memory_divides_by_what_is_left_for_layers(self) -> None:
        counted = 0
        for seed in SEEDS:
            problem = random_problem(seed, tight=True, all_linked=True)
            sums = Arithmetic(problem)
            rooms = dict(zip(sums.names, sums.memory - sums.workspace, strict=True))
            result = solve("memory", seed, tight=True, all_linked=True)
            if isinstance(result, PlanResult):
                names = problem.devices[: problem.num_layers]
                whole = sum(rooms[name] for name in names)
                for device in names:
                    exact = rooms[device] / whole * problem.num_layers
                    slack = 1.0 if rooms[names[0]] / whole * problem.num_layers >= 1 else 2.0
                    assert abs(devices_of(result).count(device) - exact) < slack, told(problem)
                counted += 1
        assert counted >= len(SEEDS) * 40 // 300

    def test_memory_divides_ample_memory_evenly(self) -> None:
        for seed in SEEDS:
            problem = random_problem(seed, all_linked=True)
            self.check("memory", seed, [1.0] * len(problem.devices), problem)

    def test_speed_divides_by_blocks_per_second(self) -> None:
        uneven = 0
        for seed in SEEDS:
            problem = random_problem(seed, all_linked=True)
            sums = Arithmetic(problem)
            block = [1 / sums.decode[1, sums.names.index(x), 0] for x in problem.devices]
            uneven += self.check("speed", seed, block, problem)
        assert uneven >= len(SEEDS) * 150 // 300


class TestEdgeshard:
    def test_visits_a_device_again_where_that_pays(self) -> None:
        assert devices_of(PLANNERS["edgeshard"](by_hand())) == ("a", "b", "a")

    def test_fills_a_device_to_the_byte(self) -> None:
        full = by_hand(a=LEAST + 512, b=LEAST + 256)
        assert devices_of(PLANNERS["edgeshard"](full)) == ("a", "b", "a")

    def test_is_the_fastest_of_all_placements_where_memory_is_ample(self) -> None:
        used_several = came_back = 0
        for seed in SEEDS:
            problem = random_problem(seed)
            best, result = truth(seed, tight=False), solve("edgeshard", seed, tight=False)
            assert best is not None
            assert isinstance(result, PlanResult)
            fastest = pytest.approx(best.seconds, rel=ROUNDING)
            assert result.estimate.decode_seconds == fastest, told(problem)
            used_several += len(result.plan.devices) > 1
            came_back += len(result.plan.stages) > len(result.plan.devices)
        # Were the source always best alone, or no device worth a second visit, this would be easy.
        assert used_several >= len(SEEDS) * 100 // 300
        assert came_back >= len(SEEDS) * 5 // 300

    def test_is_the_fastest_where_memory_is_tight_but_the_fastest_fits(self) -> None:
        counted = 0
        for seed in SEEDS:
            problem = random_problem(seed, tight=True)
            best = truth(seed, tight=True)
            if problem.costs.model.tied or best is None or best != ideal(seed):
                continue  # tied models: see the test of sharing below
            result = solve("edgeshard", seed, tight=True)
            assert isinstance(result, PlanResult), told(problem)
            fastest = pytest.approx(best.seconds, rel=ROUNDING)
            assert result.estimate.decode_seconds == fastest, told(problem)
            counted += 1
        assert counted >= len(SEEDS) * 20 // 300

    def test_is_often_the_fastest_where_memory_binds(self) -> None:
        """Keeping one path per device makes it a heuristic there: 69 % were optimal, 2 % missed,
        and the others 11 % slower on average when this was written."""
        binding, missed, ratios = 0, 0, []
        for seed in SEEDS:
            best, freely = truth(seed, tight=True), ideal(seed)
            if best is None or freely is None or best.seconds <= freely.seconds * (1 + ROUNDING):
                continue
            binding += 1
            result = solve("edgeshard", seed, tight=True)
            if isinstance(result, PlanResult):
                ratios.append(result.estimate.decode_seconds / best.seconds)
            else:
                missed += 1
        optimal = sum(ratio < 1 + ROUNDING for ratio in ratios)
        slower = [ratio for ratio in ratios if 1 + ROUNDING <= ratio < math.inf]
        mean = sum(slower) / max(len(slower), 1)
        report = (
            f"memory binds in {binding} of {len(SEEDS)} problems: {optimal} optimal "
            f"({optimal / binding:.0%}), {missed} missed, the others {mean:.3f} times as slow"
        )
        assert binding >= len(SEEDS) // 3, report
        assert min(ratios) >= 1 - ROUNDING, report
        assert optimal / binding >= 0.6, report
        assert missed / binding <= 0.05, report
        assert mean <= 1.25, report

    def test_is_never_slower_for_a_device_more(self) -> None:
        counted = 0
        for seed in SEEDS:
            problem = random_problem(seed)
            full = solve("edgeshard", seed, tight=False)
            assert isinstance(full, PlanResult)
            for extra in problem.devices[1:]:
                fewer = PLANNERS["edgeshard"](without(problem, extra))
                limit = fewer.estimate.decode_seconds * (1 + ROUNDING)
                assert full.estimate.decode_seconds <= limit, (extra, told(problem))
                counted += 1
        assert counted >= len(SEEDS) * 300 // 300

    def test_leaves_out_a_device_that_would_slow_it_down(self) -> None:
        left_out = 0
        for seed in SEEDS:
            full = solve("edgeshard", seed, tight=False)
            assert isinstance(full, PlanResult)
            problem = random_problem(seed)
            for extra in set(problem.devices) - set(full.plan.devices):
                fewer = PLANNERS["edgeshard"](without(problem, extra))
                assert fewer.plan == full.plan, (extra, told(problem))
                left_out += 1
        assert left_out >= len(SEEDS) * 100 // 300

    def test_is_never_slower_than_the_source_alone(self) -> None:
        for seed in SEEDS:
            for tight in (False, True):
                problem, alone = random_problem(seed, tight=tight), solve("solo", seed, tight)
                if tight and problem.costs.model.tied:
                    continue  # see the next test
                if isinstance(alone, PlanResult):
                    result = solve("edgeshard", seed, tight)
                    assert isinstance(result, PlanResult), told(problem)
                    limit = alone.estimate.decode_seconds * (1 + ROUNDING)
                    assert result.estimate.decode_seconds <= limit, told(problem)

    def test_is_never_slower_than_the_source_alone_that_fits_only_by_sharing(self) -> None:
        for seed in SEEDS:
            problem, alone = random_problem(seed, tight=True), solve("solo", seed, tight=True)
            if isinstance(alone, PlanResult) and problem.costs.model.tied:
                result = solve("edgeshard", seed, tight=True)
                assert isinstance(result, PlanResult), told(problem)
                limit = alone.estimate.decode_seconds * (1 + ROUNDING)
                assert result.estimate.decode_seconds <= limit, told(problem)

    def test_says_how_much_memory_is_missing_in_all(self) -> None:
        with pytest.raises(Infeasible) as caught:
            PLANNERS["edgeshard"](by_hand(a=LEAST + 300, b=LEAST + 100))
        assert str(caught.value) == (
            "layer 1 finds no device with room: the model needs 768 B in "
            "fp32, the devices have 400 B, "
            "368 B too little in all"
        )
        assert caught.value.shortage_bytes == 368

    def test_says_so_where_the_memory_is_enough_but_in_pieces(self) -> None:
        with pytest.raises(Infeasible) as caught:
            PLANNERS["edgeshard"](by_hand(a=LEAST + 500, b=LEAST + 300))
        assert str(caught.value) == (
            "layer 2 finds no device with room: the model needs 768 B in "
            "fp32, the devices have 800 B, "
            "enough in all, but no reachable device has room for the layer"
        )
        assert caught.value.shortage_bytes is None

    def test_is_the_fastest_of_all_uniform_placements_where_memory_is_ample(self) -> None:
        counted = several = 0
        for seed in MIXED:
            problem = mixed_problem(seed)
            cluster = problem.costs.cluster
            roomy = tuple(dataclasses.replace(x, memory_bytes=10**9) for x in cluster.devices)
            readings = tuple(
                dataclasses.replace(x, free_bytes=0) for x in problem.costs.profile.devices
            )
            costs = dataclasses.replace(
                problem.costs,
                cluster=dataclasses.replace(cluster, devices=roomy),
                profile=dataclasses.replace(problem.costs.profile, devices=readings),
            )
            problem = dataclasses.replace(
                problem,
                costs=costs,
                objective=Objective.LATENCY,
                first_token_weight=0.0,
                required=frozenset(),
            )
            best = brute_force(problem, among=uniform)
            result = plan_of(PLANNERS["edgeshard"], problem)
            assert isinstance(result, PlanResult) is (best is not None), told(problem)
            if isinstance(result, PlanResult) and best is not None:
                fastest = pytest.approx(best.seconds, rel=ROUNDING)
                assert result.estimate.decode_seconds == fastest, told(problem)
                counted += 1
                several += len(result.plan.devices) > 1
        assert counted >= len(SEEDS) * 100 // 300
        assert several >= len(SEEDS) * 30 // 300

    def test_takes_the_source_alone_where_the_fastest_path_breaks_a_wish(self) -> None:
        # From anywhere, everything on 'b' is fastest, but 'a' must be used.
        problem = dataclasses.replace(by_hand(), pins={}, required=frozenset("a"))
        costs = dataclasses.replace(
            problem.costs,
            profile=dataclasses.replace(
                problem.costs.profile,
                layers=tuple(
                    dataclasses.replace(x, seconds=1.0) if x.device == "b" else x
                    for x in problem.costs.profile.layers
                ),
            ),
        )
        result = PLANNERS["edgeshard"](dataclasses.replace(problem, costs=costs))
        assert "a" in result.plan.devices


def without(problem: Problem, name: str) -> Problem:
    """The same problem with a device less."""
    cluster = problem.costs.cluster
    devices = tuple(device for device in cluster.devices if device.name != name)
    links = tuple(link for link in cluster.links if name not in (link.source, link.target))
    fewer = Cluster(devices, links, cluster.source)
    return Problem(dataclasses.replace(problem.costs, cluster=fewer))


TINY = ModelSpec(
    "tiny",
    tuple(LayerSpec(kind, ((16, 4),), 0) for kind in DECODER_KINDS),
    hidden_size=4,
    vocab_size=16,
    max_context=8,
    tied=False,
)
LEAST = 4 * (2 * (2 * 16 + 4 * 4) + 16)  # what a device needs before it holds a layer


def by_hand(a: int = 10**6, b: int = 10**6) -> Problem:
    """Three layers of 256 bytes. Embedding, block, head: 4, 6, 4 seconds on 'a', 1, 1, 9 on 'b'.

    Going on at 'b' costs a hop of 1.5 and a step of 0.5, at 'a' a hop of 0.25 and a step of 1.
    """
    seconds = {"a": (4.0, 6.0, 4.0), "b": (1.0, 1.0, 9.0)}
    layers = tuple(
        LayerTiming(device, kind, scheme, 1, tokens, 3, value * share)
        for device, values in seconds.items()
        for kind, value in zip(DECODER_KINDS, values, strict=True)
        for scheme, share in (("fp32", 1.0), ("bf16", 0.5))
        for tokens in (1, 2)
    )
    hops = {("a", "a"): 0.0, ("a", "b"): 1.5, ("b", "a"): 0.25}
    timings = tuple(Link(*ends, math.inf, hop) for ends, hop in hops.items())
    readings = (DeviceReading("a", 1.0), DeviceReading("b", 0.5))
    profile = Profile(TINY.digest, layers, readings, timings)
    cluster = Cluster((Device("a", a), Device("b", b)), (Link("a", "b"), Link("b", "a")), "a")
    return Problem(CostModel(TINY, cluster, profile, Workload(2, 2, 1)))


def two_schemes(budget: float, schemes: tuple[str, ...] = ("fp32", "bf16")) -> Problem:
    """The same in fp32 or, in half the time and space, in bf16 at a loss of 0.25, 0.5 and 1."""
    losses = {"fp32": (0.0, 0.0, 0.0), "bf16": (0.25, 0.5, 1.0)}
    costs = by_hand().costs
    sensitivity = Sensitivity(costs.model.digest, "nats", 2.0, losses)
    costs = dataclasses.replace(costs, sensitivity=sensitivity)
    return Problem(costs, schemes, budget=budget)


def equals() -> Problem:
    """Nine devices of one kind, and the whole model may lie on any of them."""
    problem = by_hand()
    devices = tuple(Device(f"d{i}", 10**6, kind="a") for i in range(9))
    cluster = Cluster(devices, (), "d0", (Network(tuple(x.name for x in devices)),))
    return Problem(dataclasses.replace(problem.costs, cluster=cluster), pins={})
