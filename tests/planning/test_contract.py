"""What every planner owes, checked against the truth about hundreds of small random problems."""

import dataclasses
import math
import re
from collections.abc import Iterator
from functools import cache
from itertools import pairwise

import pytest

from edgewise.costs import CostModel
from edgewise.errors import Infeasible, PlanError
from edgewise.planning import PLANNERS, PlanResult, Problem
from edgewise.profiles import LayerTiming, LinkTiming, Profile, StepTiming
from edgewise.specs import Cluster, Device, LayerKind, LayerSpec, Link, ModelSpec, Workload
from tests.planning.brute import Arithmetic, Placement, brute_force
from tests.planning.problems import random_problem

SEEDS = range(300)
ROUNDING = 1e-9  # two orders of adding the same numbers differ by less than this


@cache
def solve(name: str, seed: int, tight: bool, all_linked: bool = False) -> PlanResult | Infeasible:
    """What a planner makes of a problem."""
    try:
        return PLANNERS[name](random_problem(seed, tight=tight, all_linked=all_linked))
    except Infeasible as error:
        return error


@cache
def truth(seed: int, tight: bool, all_linked: bool = False) -> Placement | None:
    return brute_force(random_problem(seed, tight=tight, all_linked=all_linked))


@cache
def ideal(seed: int) -> Placement | None:
    """The truth about a tight problem if every device were large enough."""
    return brute_force(random_problem(seed, tight=True), memory=False)


def devices_of(result: PlanResult) -> tuple[str, ...]:
    """The device of every layer."""
    return tuple(stage.device for stage in result.plan.stages for _ in stage.schemes)


def solved(name: str) -> Iterator[tuple[int, bool, Problem, PlanResult]]:
    """Every seed twice, with ample and with tight memory, where the planner finds a plan."""
    for tight in (False, True):
        for seed in SEEDS:
            result = solve(name, seed, tight)
            if isinstance(result, PlanResult):
                yield seed, tight, random_problem(seed, tight=tight), result


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
        assert brute_force(Problem(dataclasses.replace(costs, profile=profile))) is None


class TestProblem:
    def test_a_plan_that_lets_prompts_leave_the_source_is_refused(self) -> None:
        with pytest.raises(PlanError) as caught:
            by_hand().plan("baa")
        assert str(caught.value) == "the embedding belongs on the source 'a'"

    def test_neighbours_on_one_device_are_one_stage(self) -> None:
        assert str(by_hand().plan("abb")) == "a: layers 0-0 (fp32 x1); b: layers 1-2 (fp32 x2)"

    def test_the_source_comes_first(self) -> None:
        for seed in SEEDS:
            problem = random_problem(seed)
            cluster = problem.costs.cluster
            assert problem.devices[0] == cluster.source
            assert sorted(problem.devices) == sorted(device.name for device in cluster.devices)


class TestEveryPlanner:
    def test_finds_enough_plans_for_these_tests_to_mean_something(self, name: str) -> None:
        found = [tight for _, tight, _, _ in solved(name)]
        assert found.count(False) >= 150  # not all: a rule may need a link that is missing
        assert found.count(True) >= 20

    def test_places_every_layer_once_in_the_scheme_asked_for(self, name: str) -> None:
        for seed, tight, problem, result in solved(name):
            plan = result.plan
            plan.check(problem.costs.model, problem.costs.cluster)
            held = [layer for stage in plan.stages for layer in range(stage.start, stage.end)]
            assert held == list(range(problem.num_layers)), (seed, tight)
            assert set(plan.schemes) == {problem.scheme}, (seed, tight)

    def test_keeps_the_embedding_on_the_source(self, name: str) -> None:
        for seed, tight, problem, result in solved(name):
            assert result.plan.stages[0].device == problem.costs.cluster.source, (seed, tight)

    def test_joins_neighbours_on_one_device_into_a_stage(self, name: str) -> None:
        for seed, tight, _, result in solved(name):
            names = [stage.device for stage in result.plan.stages]
            assert all(a != b for a, b in pairwise(names)), (seed, tight)

    def test_fits_every_device(self, name: str) -> None:
        for seed, tight, problem, result in solved(name):
            assert Arithmetic(problem).fits(devices_of(result)), (seed, tight)

    def test_predicts_what_the_cost_model_predicts(self, name: str) -> None:
        for seed, tight, problem, result in solved(name):
            assert result.estimate == problem.costs.estimate(result.plan), (seed, tight)

    def test_predicts_what_adding_up_by_hand_gives(self, name: str) -> None:
        for seed, tight, problem, result in solved(name):
            sums, devices = Arithmetic(problem), devices_of(result)
            seconds = pytest.approx(sums.seconds(devices), rel=ROUNDING)
            assert result.estimate.decode_seconds == seconds, (seed, tight)
            assert result.estimate.memory_bytes == sums.used(devices), (seed, tight)

    def test_is_never_faster_than_the_fastest_of_all_placements(self, name: str) -> None:
        for seed, tight, _, result in solved(name):
            best = truth(seed, tight)
            fastest = math.inf if best is None else best.seconds
            assert result.estimate.decode_seconds >= fastest * (1 - ROUNDING), (seed, tight)

    def test_that_calls_its_plan_optimal_is_as_fast_as_the_fastest(self, name: str) -> None:
        for seed, tight, _, result in solved(name):
            assert result.status in ("optimal", "heuristic", "fixed")
            if result.status == "optimal":
                best = truth(seed, tight)
                assert best is not None, (seed, tight)
                fastest = pytest.approx(best.seconds, rel=ROUNDING)
                assert result.estimate.decode_seconds == fastest, (seed, tight)
                assert result.gap == 0.0

    def test_says_who_planned_for_how_long_and_why(self, name: str) -> None:
        for _, _, _, result in solved(name):
            assert result.planner == name
            assert 0 <= result.seconds < 5
            assert result.explanation

    def test_makes_the_same_plan_every_time(self, name: str) -> None:
        for seed, tight, problem, result in solved(name):
            again = PLANNERS[name](problem)
            assert again.plan == result.plan, (seed, tight)
            assert again.estimate == result.estimate, (seed, tight)

    def test_refuses_what_no_placement_fits_and_says_where_or_how_much(self, name: str) -> None:
        hopeless = [seed for seed in SEEDS if truth(seed, tight=True, all_linked=True) is None]
        assert len(hopeless) >= 30
        for seed in hopeless:
            error = solve(name, seed, tight=True, all_linked=True)
            assert isinstance(error, Infeasible), seed
            message = str(error)
            assert re.search(r"device '[abcd]' has \d|needs [\d.]+ (B|kB|MB)", message), message
            assert error.shortage_bytes is not None, seed
            assert error.shortage_bytes >= 0, seed

    def test_plans_for_a_single_device(self, name: str) -> None:
        for seed in range(20):
            costs = random_problem(seed).costs
            alone = Cluster((costs.cluster.device(costs.cluster.source),), (), costs.cluster.source)
            result = PLANNERS[name](Problem(dataclasses.replace(costs, cluster=alone)))
            assert result.plan.devices == (costs.cluster.source,)
            assert len(result.plan.stages) == 1

    def test_uses_only_links_that_exist(self, name: str, request: pytest.FixtureRequest) -> None:
        if name in ("even", "edgeshard"):
            reason = "returns a plan of infinite seconds where it should raise Infeasible"
            request.applymarker(pytest.mark.xfail(reason=reason))
        for seed, tight, _, result in solved(name):
            assert result.estimate.decode_seconds < math.inf, (seed, tight)


class TestSolo:
    def test_puts_everything_on_the_source_exactly_where_that_fits(self) -> None:
        fitting = 0
        for seed in SEEDS:
            problem = random_problem(seed, tight=True)
            result = solve("solo", seed, tight=True)
            fits = Arithmetic(problem).fits([problem.source] * problem.num_layers)
            assert isinstance(result, PlanResult) is fits, seed
            fitting += fits
        assert 0 < fitting < len(SEEDS)

    def test_names_the_source_and_what_it_lacks(self) -> None:
        for seed in SEEDS:
            error = solve("solo", seed, tight=True)
            if isinstance(error, Infeasible):
                problem = random_problem(seed, tight=True)
                sums = Arithmetic(problem)
                used = sums.used([problem.source] * problem.num_layers)[problem.source]
                assert str(error).startswith(f"device '{problem.source}' has "), seed
                assert error.shortage_bytes == used - sums.memory[problem.source], seed


class TestEven:
    def test_gives_no_device_two_layers_more_than_another(self) -> None:
        for seed in SEEDS:
            problem = random_problem(seed, all_linked=True)
            result = solve("even", seed, tight=False, all_linked=True)
            assert isinstance(result, PlanResult)
            held = [len(stage.schemes) for stage in result.plan.stages]
            assert max(held) - min(held) <= 1, seed
            assert len(held) == min(len(problem.devices), problem.num_layers), seed


class TestEdgeshard:
    def test_visits_a_device_again_where_that_pays(self) -> None:
        assert devices_of(PLANNERS["edgeshard"](by_hand())) == ("a", "b", "a")

    def test_fills_a_device_to_the_byte(self) -> None:
        full = by_hand(a=LEAST + 512, b=LEAST + 256)
        assert devices_of(PLANNERS["edgeshard"](full)) == ("a", "b", "a")

    def test_is_the_fastest_of_all_placements_where_memory_is_ample(self) -> None:
        used_several = came_back = 0
        for seed in SEEDS:
            best, result = truth(seed, tight=False), solve("edgeshard", seed, tight=False)
            assert best is not None
            assert isinstance(result, PlanResult)
            fastest = pytest.approx(best.seconds, rel=ROUNDING)
            assert result.estimate.decode_seconds == fastest, seed
            used_several += len(result.plan.devices) > 1
            came_back += len(result.plan.stages) > len(result.plan.devices)
        # Were the source always best alone, or no device worth a second visit, this would be easy.
        assert used_several >= 100
        assert came_back >= 5

    def test_is_the_fastest_where_memory_is_tight_but_the_fastest_fits(self) -> None:
        counted = 0
        for seed in SEEDS:
            problem = random_problem(seed, tight=True)
            best = truth(seed, tight=True)
            if problem.costs.model.tied or best is None or best != ideal(seed):
                continue  # tied models: see the test of sharing below
            result = solve("edgeshard", seed, tight=True)
            assert isinstance(result, PlanResult), seed
            fastest = pytest.approx(best.seconds, rel=ROUNDING)
            assert result.estimate.decode_seconds == fastest, seed
            counted += 1
        assert counted >= 20

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
        assert binding >= 100, report
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
                assert full.estimate.decode_seconds <= limit, (seed, extra)
                counted += 1
        assert counted >= 300

    def test_leaves_out_a_device_that_would_slow_it_down(self) -> None:
        left_out = 0
        for seed in SEEDS:
            full = solve("edgeshard", seed, tight=False)
            assert isinstance(full, PlanResult)
            problem = random_problem(seed)
            for extra in set(problem.devices) - set(full.plan.devices):
                fewer = PLANNERS["edgeshard"](without(problem, extra))
                assert fewer.plan == full.plan, (seed, extra)
                left_out += 1
        assert left_out >= 100

    def test_is_never_slower_than_the_source_alone(self) -> None:
        for seed in SEEDS:
            for tight in (False, True):
                alone = solve("solo", seed, tight)
                if tight and random_problem(seed, tight=True).costs.model.tied:
                    continue  # see the next test
                if isinstance(alone, PlanResult):
                    result = solve("edgeshard", seed, tight)
                    assert isinstance(result, PlanResult), (seed, tight)
                    limit = alone.estimate.decode_seconds * (1 + ROUNDING)
                    assert result.estimate.decode_seconds <= limit, (seed, tight)

    @pytest.mark.xfail(reason="counts the shared matrix twice, so it finds the source too small")
    def test_is_never_slower_than_the_source_alone_that_fits_only_by_sharing(self) -> None:
        for seed in SEEDS:
            alone = solve("solo", seed, tight=True)
            if isinstance(alone, PlanResult) and random_problem(seed, tight=True).costs.model.tied:
                result = solve("edgeshard", seed, tight=True)
                assert isinstance(result, PlanResult), seed
                limit = alone.estimate.decode_seconds * (1 + ROUNDING)
                assert result.estimate.decode_seconds <= limit, seed

    def test_says_how_much_memory_is_missing_in_all(self) -> None:
        with pytest.raises(Infeasible) as caught:
            PLANNERS["edgeshard"](by_hand(a=LEAST + 300, b=LEAST + 100))
        assert str(caught.value) == (
            "layer 1 finds no device with room: the model needs 768 B, the devices have 400 B, "
            "368 B too little in all"
        )
        assert caught.value.shortage_bytes == 368

    def test_says_so_where_the_memory_is_enough_but_in_pieces(self) -> None:
        with pytest.raises(Infeasible) as caught:
            PLANNERS["edgeshard"](by_hand(a=LEAST + 500, b=LEAST + 300))
        assert str(caught.value) == (
            "layer 2 finds no device with room: the model needs 768 B, the devices have 800 B, "
            "enough in all, but no reachable device has room for the layer"
        )


def without(problem: Problem, name: str) -> Problem:
    """The same problem with a device less."""
    cluster = problem.costs.cluster
    devices = tuple(device for device in cluster.devices if device.name != name)
    links = tuple(link for link in cluster.links if name not in (link.source, link.target))
    fewer = Cluster(devices, links, cluster.source)
    return Problem(dataclasses.replace(problem.costs, cluster=fewer))


TINY = ModelSpec(
    "tiny",
    tuple(LayerSpec(kind, ((16, 4),), 0) for kind in LayerKind),
    hidden_size=4,
    vocab_size=16,
    max_context=8,
    kv_width=0,
    tied=False,
)
LEAST = 4 * (2 * (2 * 16 + 4 * 4) + 16)  # what a device needs before it holds a layer


def by_hand(a: int = 10**6, b: int = 10**6) -> Problem:
    """Three layers of 256 bytes. Embedding, block, head: 4, 6, 4 seconds on 'a', 1, 1, 9 on 'b'.

    Going on at 'b' costs a hop of 1.5 and a step of 0.5, at 'a' a hop of 0.25 and a step of 1.
    """
    seconds = {"a": (4.0, 6.0, 4.0), "b": (1.0, 1.0, 9.0)}
    layers = tuple(
        LayerTiming(device, kind, "fp32", tokens, 3, value)
        for device, values in seconds.items()
        for kind, value in zip(LayerKind, values, strict=True)
        for tokens in (1, 2)
    )
    hops = {("a", "a"): 0.0, ("a", "b"): 1.5, ("b", "a"): 0.25}
    timings = tuple(LinkTiming(*ends, hop, math.inf) for ends, hop in hops.items())
    steps = (StepTiming("a", 1.0), StepTiming("b", 0.5))
    profile = Profile(TINY.digest, layers, steps, timings)
    cluster = Cluster((Device("a", a), Device("b", b)), (Link("a", "b"), Link("b", "a")), "a")
    return Problem(CostModel(TINY, cluster, profile, Workload(2, 2, 1)))
