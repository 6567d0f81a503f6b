"""The cost model against sums done by hand. The figures are chosen so that no two terms are alike.

Two devices, four layers, 6 tokens in and 4 out, two sequences at a time, which travel together:
caches hold 2 x 10 tokens, decoding is judged after 8.
"""

import dataclasses
import math
from collections.abc import Callable
from itertools import product

import pytest

from edgewise.clusters import Cluster, Device, Link, Network
from edgewise.costs import CostModel
from edgewise.errors import Infeasible, ProfileError
from edgewise.memory import HEADROOM, device_bytes, layer_bytes, workspace_bytes
from edgewise.planning import PLANNERS, Problem
from edgewise.plans import Plan, Stage
from edgewise.profiles import DeviceReading, LayerTiming, Profile
from edgewise.regressions import Fit, Law
from edgewise.schemes import CacheType, Wire
from edgewise.sensitivities import Sensitivity
from edgewise.specs import LayerKind, LayerSpec, ModelSpec, Workload

EMBEDDING, BLOCK, HEAD = LayerKind.EMBEDDING, LayerKind.BLOCK, LayerKind.HEAD
BLOCKS = ("block 1", "block 2")
AGAIN = "; measure again with `edgewise profile`"
WORK = Workload(prompt_tokens=6, new_tokens=4, sequences=2)
MODEL = ModelSpec(
    "tiny",
    (
        LayerSpec(EMBEDDING, ((10, 4),), 0),
        LayerSpec(BLOCK, ((8, 4), (4, 4)), 3, kv_width=6),
        LayerSpec(BLOCK, ((8, 4), (4, 8)), 3, kv_width=6),
        LayerSpec(HEAD, ((10, 4),), 4),
    ),
    hidden_size=4,
    vocab_size=10,
    max_context=32,
    tied=False,
)
TIED = dataclasses.replace(MODEL, tied=True)

# Bytes in fp32, layer by layer, then what a device needs besides. A hidden state is 16 bytes,
# so two are 32, and a workspace serves two sequences.
CACHE = 20 * 6 * 4
LAYER_BYTES = (10 * 4 * 4, (32 + 16 + 3) * 4 + CACHE, (32 + 32 + 3) * 4 + CACHE, (40 + 4) * 4)
WORKSPACE = 4 * 2 * (6 * (2 * 8 + 4 * 4) + 10)


Work = Callable[[float, float], float]


def timings(
    device: str, layer: str, decode: Work, prefill: Work, scheme: str = "fp32"
) -> tuple[LayerTiming, ...]:
    """Laws of (sequences, cached tokens) and of (sequences, tokens), within the regression's
    reach and measured at enough shapes for it to find them again."""
    decoding = [(b, 1, i, decode(b, i)) for b, i in product((1, 2), (4, 12))]
    prompts = [(b, s, 0, prefill(b, s)) for b, s in product((1, 2), (2, 6, 10))]
    return tuple(LayerTiming(device, layer, scheme, *shape) for shape in (*decoding, *prompts))


def block_on_a(b: float, i: float) -> float:
    return 0.125 * b * (1 + i) + 0.25 * b + 0.25


def blocks(device: str, decode: Work, prefill: Work) -> tuple[LayerTiming, ...]:
    """Both classes of blocks, as if they took as long as each other."""
    return tuple(x for name in BLOCKS for x in timings(device, name, decode, prefill))


PROFILE = Profile(
    MODEL.digest,
    (
        # For two sequences, after 8 tokens; for two prompts of 6 tokens.
        *timings("a", EMBEDDING, lambda b, i: 0.5 * b, lambda b, s: 0.25 * b * s),  # 1; 3
        *blocks("a", block_on_a, lambda b, s: 0.5 * b * s + b),  # 3; 8
        *timings("a", HEAD, lambda b, i: i + 2 * b, lambda b, s: 0),  # 12; at 6 tokens 10
        *timings("b", EMBEDDING, lambda b, i: 3, lambda b, s: 2),
        *blocks("b", lambda b, i: 0.125 * i + 0.25 * b, lambda b, s: 0.25 * s + 1.5 * b),
        # 1.5; 4.5
    ),
    (DeviceReading("a", 0.5), DeviceReading("b", 0.25)),
    (
        Link("a", "a", 800, 0.01),  # two tokens 0.03
        Link("a", "b", 160, 0.1),  # two tokens 0.2, two hidden states 0.3, twelve 1.3
        Link("b", "a", 32, 0.3),  # two tokens 0.8, two hidden states 1.3, twelve 6.3
    ),
)


def costs(model: ModelSpec = MODEL, work: Workload = WORK, a: int = 10**6, b: int = 10**6):
    links = (Link("a", "b"), Link("b", "a"))
    cluster = Cluster((Device("a", a), Device("b", b)), links, "a")
    return CostModel(model, cluster, PROFILE, work)


def plan(*stages: tuple[str, int], schemes: tuple[str, ...] = ("fp32",) * 4) -> Plan:
    """A plan from (device, end) pairs."""
    ranges, at = [], 0
    for device, end in stages:
        ranges.append(Stage(device, at, end, schemes[at:end]))
        at = end
    return Plan("tiny", MODEL.digest, 4, tuple(ranges))


WHOLE = plan(("a", 4))
THERE_AND_BACK = plan(("a", 1), ("b", 3), ("a", 4))


class TestSeconds:
    def test_a_token_on_one_device(self) -> None:
        estimate = costs().estimate(WHOLE)
        assert estimate.decode_seconds == pytest.approx(0.03 + (0.5 + 1 + 3 + 3 + 12) + 0.03)

    def test_a_prompt_on_one_device(self) -> None:
        estimate = costs().estimate(WHOLE)
        entry = 0.01 + 2 * 6 * 8 / 800  # all token ids
        assert estimate.prefill_seconds == pytest.approx(entry + (0.5 + 3 + 8 + 8 + 10) + 0.03)

    def test_a_token_there_and_back(self) -> None:
        estimate = costs().estimate(THERE_AND_BACK)
        a, b, again = 0.5 + 1, 0.25 + 1.5 + 1.5, 0.5 + 12
        assert estimate.decode_seconds == pytest.approx(0.03 + a + 0.3 + b + 1.3 + again + 0.03)

    def test_a_prompt_there_and_back(self) -> None:
        estimate = costs().estimate(THERE_AND_BACK)
        a, b, again = 0.5 + 3, 0.25 + 4.5 + 4.5, 0.5 + 10
        whole = 0.13 + a + 1.3 + b + 6.3 + again + 0.03
        assert estimate.prefill_seconds == pytest.approx(whole)

    def test_an_answer_that_ends_elsewhere_sends_only_the_token_back(self) -> None:
        head = timings("b", HEAD, lambda b, i: 0.5 * i + b, lambda b, s: 0)  # 6 after 8 tokens
        profile = dataclasses.replace(PROFILE, layers=(*PROFILE.layers, *head))
        estimate = dataclasses.replace(costs(), profile=profile).estimate(plan(("a", 2), ("b", 4)))
        assert estimate.return_seconds == pytest.approx(0.8)
        a, b = 0.5 + 1 + 3, 0.25 + 1.5 + 6
        assert estimate.decode_seconds == pytest.approx(0.03 + a + 0.3 + b + 0.8)

    def test_a_plan_that_begins_elsewhere_sends_the_token_there(self) -> None:
        estimate = costs().estimate(plan(("b", 3), ("a", 4)))
        b, a = 0.25 + 3 + 1.5 + 1.5, 0.5 + 12
        assert estimate.stages[0].hop_seconds == pytest.approx(0.2)
        assert estimate.decode_seconds == pytest.approx(0.2 + b + 1.3 + a + 0.03)

    def test_every_stage_shows_its_share(self) -> None:
        estimate = costs().estimate(THERE_AND_BACK)
        shown = [(s.decode_seconds, s.prefill_seconds, s.hop_seconds) for s in estimate.stages]
        assert shown == [
            pytest.approx((1.5, 3.5, 0.03)),
            pytest.approx((3.25, 9.25, 0.3)),
            pytest.approx((12.5, 10.5, 1.3)),
        ]
        assert [s.stage for s in estimate.stages] == list(THERE_AND_BACK.stages)
        assert estimate.return_seconds == pytest.approx(0.03)

    def test_stages_that_follow_each_other_on_a_device_pay_for_a_step_but_no_hop(self) -> None:
        estimate = costs().estimate(plan(("a", 2), ("a", 4)))
        whole = costs().estimate(WHOLE)
        assert estimate.stages[1].hop_seconds == 0.0
        assert estimate.decode_seconds == pytest.approx(whole.decode_seconds + 0.5)
        assert estimate.prefill_seconds == pytest.approx(whole.prefill_seconds + 0.5)

    def test_a_longer_answer_is_judged_at_its_middle(self) -> None:
        longer = dataclasses.replace(WORK, new_tokens=12)  # after 12 tokens
        estimate = costs(work=longer).estimate(WHOLE)
        assert estimate.decode_seconds == pytest.approx(0.03 + (0.5 + 1 + 4 + 4 + 16) + 0.03)

    def test_what_planners_add_up_is_what_a_plan_costs(self) -> None:
        model = costs()
        entering = model.enter_seconds("a", "b") + model.enter_seconds("b", "a")
        layers = zip((0, 1, 2, 3), ("a", "b", "b", "a"), strict=True)
        computing = sum(model.decode_seconds(layer, name, "fp32") for layer, name in layers)
        ends = model.entry_hop("a").seconds + model.return_hop("a").seconds
        ends += model.step_seconds("a")
        whole = model.estimate(THERE_AND_BACK).decode_seconds
        assert entering + computing + ends == pytest.approx(whole)

    def test_staying_on_a_device_is_free_and_entering_costs_hop_and_step(self) -> None:
        model = costs()
        assert model.enter_seconds("b", "b") == model.activation_hop("b", "b").seconds == 0.0
        assert model.activation_hop("a", "b").seconds == pytest.approx(0.3)
        assert model.activation_hop("a", "b").occupancy_seconds == pytest.approx(0.2)
        assert model.enter_seconds("a", "b") == pytest.approx(0.3 + 0.25)

    def test_rounded_states_occupy_a_link_for_less(self) -> None:
        rows = {wire: wire.row_bytes(MODEL.hidden_size) for wire in Wire}
        assert rows == {Wire.FP32: 16, Wire.BF16: 8, Wire.INT8: 4 + 2}
        full = costs().activation_hop("a", "b").occupancy_seconds
        for wire, size in rows.items():
            hop = costs(work=dataclasses.replace(WORK, wire=wire)).activation_hop("a", "b")
            assert hop.occupancy_seconds == pytest.approx(full * size / 16)

    def test_without_a_link_a_hop_takes_forever(self) -> None:
        one_way = dataclasses.replace(PROFILE, links=PROFILE.links[:2])
        cluster = dataclasses.replace(costs().cluster, links=(Link("a", "b"),))
        model = dataclasses.replace(costs(), profile=one_way, cluster=cluster)
        assert model.link("b", "a") is None
        assert model.activation_hop("b", "a").seconds == float("inf")
        assert model.estimate(THERE_AND_BACK).decode_seconds == float("inf")
        assert model.estimate(WHOLE).decode_seconds < float("inf")

    def test_a_hop_that_was_not_measured_is_as_the_cluster_file_says(self) -> None:
        unmeasured = dataclasses.replace(PROFILE, links=PROFILE.links[:1])
        links, networks = (Link("a", "b", 64, 2),), (Network(("b", "a"), 16, 4),)
        cluster = Cluster(costs().cluster.devices, links, "a", networks)
        model = dataclasses.replace(costs(), profile=unmeasured, cluster=cluster)
        assert model.activation_hop("a", "b").seconds == 2 + 32 / 64
        assert model.activation_hop("b", "a").seconds == 4 + 32 / 16
        there = dataclasses.replace(model, profile=PROFILE)
        assert there.activation_hop("b", "a").seconds == pytest.approx(1.3)

    def test_one_device_is_measured_for_all_of_its_kind_but_links_are_their_own(self) -> None:
        devices = (Device("a", 10**6), Device("b", 10**6), Device("c", 10**6, kind="b"))
        cluster = Cluster(devices, (Link("a", "c", 320), Link("c", "a", 64)), "a")
        model = dataclasses.replace(costs(), cluster=cluster)
        assert model.step_seconds("c") == 0.25
        assert model.decode_seconds(1, "c", "fp32") == pytest.approx(1.5)
        assert model.prefill_seconds(1, "c", "fp32") == pytest.approx(4.5)
        estimate = model.estimate(plan(("a", 1), ("c", 3), ("a", 4)))
        a, c, again = 0.5 + 1, 0.25 + 1.5 + 1.5, 0.5 + 12
        assert estimate.decode_seconds == pytest.approx(0.03 + a + 0.1 + c + 0.5 + again + 0.03)

    def test_a_layer_that_was_not_measured_there_is_named(self) -> None:
        with pytest.raises(ProfileError) as caught:
            costs().estimate(plan(("a", 3), ("b", 4)))
        assert str(caught.value) == "profile: no decode time of head in fp32 on 'b'" + AGAIN


class TestUnlikeBlocks:
    """Six blocks, by turns of two classes: on 'a' 3 and 7 seconds per token, 8 and 20 per prompt,
    on 'b' 9 and 1, 6 and 2. Going to 'b' and back costs 0.3 and 1.3, steps 0.5 and 0.25."""

    model = dataclasses.replace(
        MODEL, layers=(MODEL.layers[0], *(MODEL.layers[1:3] * 3), MODEL.layers[3])
    )

    def costs(self, b: int = 10**6) -> CostModel:
        seconds = {"a": ((3, 8), (7, 20)), "b": ((9, 6), (1, 2))}
        layers = tuple(
            timing
            for device, both in seconds.items()
            for name, (token, prompt) in zip(BLOCKS, both, strict=True)
            for timing in timings(device, name, lambda *_, t=token: t, lambda *_, p=prompt: p)
        )
        layers += tuple(x for x in PROFILE.layers if x.layer not in BLOCKS)
        layers += timings("b", HEAD, lambda *_: 50, lambda *_: 0)
        profile = dataclasses.replace(PROFILE, model=self.model.digest, layers=layers)
        return dataclasses.replace(costs(self.model, b=b), profile=profile)

    def plan(self, *ends: tuple[str, int]) -> Plan:
        starts = (0, *(end for _, end in ends))
        stages = tuple(
            Stage(device, start, end, ("fp32",) * (end - start))
            for start, (device, end) in zip(starts, ends, strict=False)
        )
        return Plan("tiny", self.model.digest, 8, stages)

    def test_each_costs_what_its_class_does(self) -> None:
        estimate = self.costs().estimate(self.plan(("a", 3), ("b", 6), ("a", 8)))
        a, b, again = 0.5 + 1 + 3 + 7, 0.25 + 9 + 1 + 9, 0.5 + 7 + 12
        assert estimate.decode_seconds == pytest.approx(0.03 + a + 0.3 + b + 1.3 + again + 0.03)
        a, b, again = 0.5 + 3 + 8 + 20, 0.25 + 6 + 2 + 6, 0.5 + 20 + 10
        assert estimate.prefill_seconds == pytest.approx(0.13 + a + 1.3 + b + 6.3 + again + 0.03)

    def test_each_takes_its_own_bytes(self) -> None:
        held = self.costs().memory_bytes(self.plan(("a", 3), ("b", 6), ("a", 8)))
        assert held["b"] == WORKSPACE + 2 * LAYER_BYTES[1] + LAYER_BYTES[2]

    @pytest.mark.parametrize("planner", ["joint", "edgeshard", "edgeshard-exact"])
    def test_are_placed_by_what_they_cost(self, planner: str) -> None:
        """'b' runs the second class in a seventh of the time: going there and back pays for every
        block of it, and staying there for one of the first class does not."""
        result = PLANNERS[planner](Problem(self.costs()))
        devices = [s.device for s in result.plan.stages for _ in s.schemes]
        assert devices == ["a", "a", "b", "a", "b", "a", "b", "a"]
        once = 0.3 + 0.25 + 1 + 1.3 + 0.5  # there, the block, and back to a step on 'a'
        assert result.estimate.decode_seconds == pytest.approx(0.06 + 0.5 + 1 + 3 * (3 + once) + 12)

    def test_fill_a_device_by_their_own_bytes(self) -> None:
        """Room on 'b' for two blocks of the second class, to the byte."""
        costs = self.costs(b=WORKSPACE + 2 * LAYER_BYTES[2])
        plan = PLANNERS["joint"](Problem(costs)).plan
        devices = [s.device for s in plan.stages for _ in s.schemes]
        assert [i for i, name in enumerate(devices) if name == "b"] in ([2, 4], [2, 6], [4, 6])


SHARES = {EMBEDDING: 0.0, "block 1": 0.1, "block 2": 0.2, HEAD: 0.4}


class TestErrors:
    """Every layer was timed four times in its only shape, half of them too short and half too long
    by a share of its own, so that regressions leave an error."""

    def costs(self, blocks: int) -> CostModel:
        layers = tuple(
            LayerTiming(device, layer, "fp32", 2, tokens, context, 1 + share * sign)
            for device in "ab"
            for layer, share in SHARES.items()
            for tokens, context in ((1, 8), (6, 0))
            for sign in (-1, 1, -1, 1)
        )
        inner = MODEL.layers[1:3] * blocks
        model = dataclasses.replace(MODEL, layers=(MODEL.layers[0], *inner, MODEL.layers[3]))
        profile = dataclasses.replace(PROFILE, model=model.digest, layers=layers)
        return dataclasses.replace(costs(model), profile=profile)

    def plan(self, costs: CostModel, *ends: tuple[str, int]) -> Plan:
        starts = (0, *(end for _, end in ends))
        stages = tuple(
            Stage(device, start, end, ("fp32",) * (end - start))
            for start, (device, end) in zip(starts, ends, strict=False)
        )
        return Plan("tiny", costs.model.digest, costs.model.num_layers, stages)

    def off(self, layer: str, count: int) -> float:
        """Seconds by which equal layers may be off together, by the regression's formula."""
        measured = [1 + SHARES[layer] * sign for sign in (-1, 1, -1, 1)]
        predicted = sum(1 / x for x in measured) / sum(1 / x**2 for x in measured)
        squares = sum((1 - predicted / x) ** 2 for x in measured)
        return count * predicted * math.sqrt(squares / 3)

    def test_of_equal_layers_add_up_and_of_unlike_ones_do_so_as_squares(self) -> None:
        costs = self.costs(blocks=3)
        estimate = costs.estimate(self.plan(costs, ("a", 8)))
        off = math.hypot(self.off("block 1", 3), self.off("block 2", 3), self.off(HEAD, 1))
        assert estimate.decode_error == pytest.approx(off / estimate.decode_seconds)

    def test_of_two_kinds_of_devices_are_independent(self) -> None:
        costs = self.costs(blocks=3)
        estimate = costs.estimate(self.plan(costs, ("a", 3), ("b", 7), ("a", 8)))
        ones = (self.off("block 1", 1), self.off("block 2", 1), self.off(HEAD, 1))
        off = math.hypot(*ones, self.off("block 1", 2), self.off("block 2", 2))
        assert estimate.decode_error == pytest.approx(off / estimate.decode_seconds)

    def test_of_prompts_are_their_own_but_for_the_head(self) -> None:
        costs = self.costs(blocks=1)
        longer = tuple(
            dataclasses.replace(x, seconds=9 * x.seconds) if x.tokens == 6 else x
            for x in costs.profile.layers
        )
        profile = dataclasses.replace(costs.profile, layers=longer)
        costs = dataclasses.replace(costs, profile=profile)
        estimate = costs.estimate(self.plan(costs, ("a", 4)))
        head = self.off(HEAD, 1) * costs.prefill_seconds(3, "a", "fp32")
        head /= costs.decode_seconds(3, "a", "fp32")
        off = math.hypot(self.off("block 1", 9), self.off("block 2", 9), head)
        assert estimate.prefill_error == pytest.approx(off / estimate.prefill_seconds)

    def timed_twice(self, costs: CostModel, layer: str, share: float) -> CostModel:
        """One of the layers takes a share of its seconds, and too few timings to tell its error."""
        few = tuple(
            dataclasses.replace(x, seconds=share * x.seconds) if x.layer == layer else x
            for x in costs.profile.layers
            if x.layer != layer or x.seconds > 1
        )
        return dataclasses.replace(costs, profile=dataclasses.replace(costs.profile, layers=few))

    def test_are_not_known_where_those_of_many_layers_are_not(self) -> None:
        costs = self.costs(blocks=1)
        few, plan = self.timed_twice(costs, "block 2", 1.0), self.plan(costs, ("a", 4))
        assert few.profile.error(("a", "block 2", "fp32", True)) is None
        assert few.estimate(plan).decode_error is None

    def test_count_wholly_where_few_layers_have_no_known_one(self) -> None:
        costs = self.costs(blocks=1)
        few, plan = self.timed_twice(costs, "block 2", 0.1), self.plan(costs, ("a", 4))
        estimate = few.estimate(plan)
        off = math.hypot(self.off("block 1", 1), self.off(HEAD, 1), 0.1 * 1.2)
        assert estimate.decode_error == pytest.approx(off / estimate.decode_seconds)


class TestChunks:
    """Three equal devices, 2,048 tokens: eight chunks, one behind the other."""

    def estimate(self, order: str, *, tokens: int = 2048, occupied: float = 0.0):
        width, rate = 256 * 16, math.inf if not occupied else 256 * 16 / occupied
        layers = tuple(
            timing
            for device in "abc"
            for layer, share in ((EMBEDDING, 0.0), (BLOCK, 1 / 256), (HEAD, 0.0))
            for timing in timings(device, layer, lambda b, i: 0.0, lambda b, s, x=share: b * s * x)
        )
        links = tuple(Link(a, b, rate, 0.25) for a in "abc" for b in "abc" if a != b)
        readings = tuple(DeviceReading(name, 0.0) for name in "abc")
        block = MODEL.layers[1]
        model = dataclasses.replace(
            MODEL, layers=(MODEL.layers[0], *[block] * len(order), MODEL.layers[-1])
        )
        profile = Profile(model.digest, layers, readings, links)
        cluster = Cluster(tuple(Device(name, 10**9) for name in "abc"), links, "a")
        work = Workload(tokens, 2)
        ends = [1 + i + (i == len(order)) for i in range(1, len(order) + 1)]
        stages, at = [], 0
        for device, end in zip(order, ends, strict=True):
            stages.append(Stage(device, at, end, ("fp32",) * (end - at)))
            at = end
        plan = Plan("tiny", model.digest, len(model.layers), tuple(stages))
        assert width == 256 * model.hidden_size * 4
        return CostModel(model, cluster, profile, work).estimate(plan)

    def test_follow_each_other_through_the_stages(self) -> None:
        assert self.estimate("a").prefill_seconds == pytest.approx(8)
        # Eight chunks of a second through three stages, two delays and the one of the way back.
        assert self.estimate("abc").prefill_seconds == pytest.approx(8 + 2 + 3 * 0.25)
        assert self.estimate("abc", tokens=256).prefill_seconds == pytest.approx(3 + 3 * 0.25)

    def test_wait_for_the_link_that_others_occupy(self) -> None:
        slow = self.estimate("abc", occupied=2.0)  # both links; eight chunks through the first
        assert slow.prefill_seconds == pytest.approx(1 + 8 * 2 + 1 + 2 + 1 + 3 * 0.25, abs=1e-2)

    def test_wait_for_the_device_that_works_on_others(self) -> None:
        again = self.estimate("aba")
        assert again.prefill_seconds >= 16  # 'a' computes sixteen
        assert again.prefill_seconds <= 16 + 1 + 2 * 0.25 + 1

    def test_a_token_later_in_the_prompt_looks_at_more(self) -> None:
        fit = Fit((Law((0.0, 0.0, 0.0, 1.0, 0.0)),), decode=False)
        whole = fit.seconds(1, 2048, 0)
        parts = sum(fit.seconds(1, 256, 256 * i) for i in range(8))
        assert parts == pytest.approx(whole) == pytest.approx(2048**2)


class TestBytes:
    @pytest.mark.parametrize("layer", range(4))
    def test_a_layer_takes_its_weights_and_a_block_its_cache(self, layer: int) -> None:
        assert layer_bytes(MODEL, layer, "fp32", WORK) == LAYER_BYTES[layer]
        assert costs().layer_bytes(layer, "fp32") == LAYER_BYTES[layer]

    def test_a_narrower_scheme_narrows_weights_and_cache(self) -> None:
        assert layer_bytes(MODEL, 1, "bf16", WORK) == (32 + 16 + 3) * 2 + 20 * 6 * 2

    def test_a_cache_in_8_bits_is_the_same_for_all_schemes(self) -> None:
        block = dataclasses.replace(MODEL.layers[1], kv_heads=2)
        model = dataclasses.replace(MODEL, layers=(MODEL.layers[0], block, MODEL.layers[3]))
        work = dataclasses.replace(WORK, cache=CacheType.INT8)
        one = 6 + 2 * 2 * 4  # codes, and a scale for keys and values of each head
        assert layer_bytes(model, 1, "fp32", work) == (32 + 16 + 3) * 4 + 20 * one
        assert layer_bytes(model, 1, "bf16", work) == (32 + 16 + 3) * 2 + 20 * one
        assert layer_bytes(model, 0, "fp32", work) == LAYER_BYTES[0]

    def test_a_narrower_cache_is_a_class_of_its_own_and_takes_less(self) -> None:
        narrow = dataclasses.replace(MODEL.layers[1], kv_width=2)
        layers = (MODEL.layers[0], MODEL.layers[1], narrow, MODEL.layers[3])
        model = dataclasses.replace(MODEL, layers=layers)
        assert model.classes[1:3] == BLOCKS
        assert layer_bytes(model, 1, "fp32", WORK) == LAYER_BYTES[1]
        assert layer_bytes(model, 2, "fp32", WORK) == (32 + 16 + 3) * 4 + 20 * 2 * 4

    def test_the_workspace_holds_the_prompt(self) -> None:
        assert workspace_bytes(MODEL, WORK) == WORKSPACE

    def test_the_workspace_holds_no_more_than_a_chunk_of_a_long_prompt(self) -> None:
        expected = 4 * (256 * (2 * 8 + 4 * 4) + 10)
        assert workspace_bytes(MODEL, Workload(prompt_tokens=255)) < expected
        assert workspace_bytes(MODEL, Workload(prompt_tokens=256)) == expected
        assert workspace_bytes(MODEL, Workload(prompt_tokens=10_000)) == expected

    def test_a_plan_takes_memory_on_each_device_it_uses(self) -> None:
        expected = {
            "a": WORKSPACE + LAYER_BYTES[0] + LAYER_BYTES[3],
            "b": WORKSPACE + LAYER_BYTES[1] + LAYER_BYTES[2],
        }
        assert costs().memory_bytes(THERE_AND_BACK) == expected
        assert costs().estimate(THERE_AND_BACK).memory_bytes == expected
        assert costs().memory_bytes(WHOLE) == {"a": WORKSPACE + sum(LAYER_BYTES)}

    def test_schemes_count_layer_by_layer(self) -> None:
        mixed = plan(("a", 4), schemes=("fp32", "bf16", "fp32", "fp16"))
        narrow = (32 + 16 + 3) * 2 + 20 * 6 * 2
        expected = WORKSPACE + LAYER_BYTES[0] + narrow + LAYER_BYTES[2] + (40 + 4) * 2
        assert costs().memory_bytes(mixed) == {"a": expected}

    def test_what_is_left_for_layers(self) -> None:
        assert costs(b=5000).capacity_bytes("b") == 5000 - WORKSPACE


class TestBatch:
    """Sequences that travel together, those of the largest micro-batch, share every step."""

    @pytest.mark.parametrize(
        ("sequences", "lanes", "batch"),
        [(1, 1, 1), (4, 1, 4), (4, 2, 2), (5, 2, 3), (7, 3, 3), (6, 6, 1)],
    )
    def test_every_term_of_a_lane_grows_with_it(
        self, sequences: int, lanes: int, batch: int
    ) -> None:
        work = dataclasses.replace(WORK, sequences=sequences, micro_batches=lanes)
        assert work.batch == batch
        model = costs(work=work)
        assert model.decode_seconds(0, "a", "fp32") == pytest.approx(0.5 * batch)
        assert model.decode_seconds(1, "a", "fp32") == pytest.approx(block_on_a(batch, 8))
        assert model.prefill_seconds(1, "a", "fp32") == pytest.approx(0.5 * batch * 6 + batch)
        assert model.prefill_seconds(3, "a", "fp32") == pytest.approx(6 + 2 * batch)
        assert model.entry_hop("b").seconds == pytest.approx(0.1 + batch * 8 / 160)
        assert model.activation_hop("a", "b").seconds == pytest.approx(0.1 + batch * 16 / 160)
        prompt = model.activation_hop("a", "b", 6)
        assert prompt.seconds == pytest.approx(0.1 + batch * 6 * 16 / 160)
        assert model.activation_hop("b", "b", 6).seconds == 0.0
        assert model.step_seconds("a") == 0.5
        assert workspace_bytes(MODEL, work) == 4 * batch * (6 * (2 * 8 + 4 * 4) + 10)

    def test_the_cache_holds_every_sequence_whatever_its_lane(self) -> None:
        for lanes in (1, 2, 5):
            work = dataclasses.replace(WORK, sequences=5, micro_batches=lanes)
            assert layer_bytes(MODEL, 1, "fp32", work) == (32 + 16 + 3) * 4 + 5 * 10 * 6 * 4

    def test_a_lane_takes_as_long_whatever_goes_on_in_the_others(self) -> None:
        alone = costs().estimate(THERE_AND_BACK)
        lanes = dataclasses.replace(WORK, sequences=6, micro_batches=3)
        beside = costs(work=lanes).estimate(THERE_AND_BACK)
        assert beside.decode_seconds == alone.decode_seconds
        assert beside.prefill_seconds == alone.prefill_seconds
        assert beside.bottleneck_seconds == alone.bottleneck_seconds


class TestRounds:
    """There and back: a lane's round trip is 18.91; device 'a' is busy for 1.5 + 12.5 = 14."""

    def rounds(self, sequences: int, lanes: int) -> tuple[float, float, float]:
        work = dataclasses.replace(WORK, sequences=sequences, micro_batches=lanes)
        estimate = costs(work=work).estimate(THERE_AND_BACK)
        assert estimate.workload == work
        seconds = estimate.round_seconds(), estimate.round_seconds(bubbles=True)
        return (*seconds, estimate.tokens_per_second)

    def test_the_busiest_device_is_counted_with_all_its_stages(self) -> None:
        assert costs().estimate(THERE_AND_BACK).bottleneck_seconds == pytest.approx(14)
        assert costs().estimate(WHOLE).bottleneck_seconds == pytest.approx(19.5)

    def test_what_occupies_a_link_may_be_the_bottleneck_its_latency_never(self) -> None:
        slow = dataclasses.replace(PROFILE.links[2], bytes_per_second=2)
        profile = dataclasses.replace(PROFILE, links=(*PROFILE.links[:2], slow))
        estimate = dataclasses.replace(costs(), profile=profile).estimate(THERE_AND_BACK)
        assert estimate.bottleneck_seconds == pytest.approx(32 / 2)
        far = dataclasses.replace(PROFILE.links[2], latency_seconds=100)
        profile = dataclasses.replace(PROFILE, links=(*PROFILE.links[:2], far))
        estimate = dataclasses.replace(costs(), profile=profile).estimate(THERE_AND_BACK)
        assert estimate.bottleneck_seconds == pytest.approx(14)

    def test_hops_over_one_link_add_up(self) -> None:
        slow = dataclasses.replace(PROFILE.links[1], bytes_per_second=4)
        profile = dataclasses.replace(PROFILE, links=(PROFILE.links[0], slow, PROFILE.links[2]))
        twice = plan(("a", 1), ("b", 2), ("a", 3), ("b", 4))
        head = timings("b", HEAD, lambda b, i: 0.5 * i + b, lambda b, s: 0)
        profile = dataclasses.replace(profile, layers=(*PROFILE.layers, *head))
        estimate = dataclasses.replace(costs(), profile=profile).estimate(twice)
        assert estimate.bottleneck_seconds == pytest.approx(2 * 32 / 4)

    def test_the_way_back_occupies_its_link(self) -> None:
        slow = dataclasses.replace(PROFILE.links[2], bytes_per_second=0.5)
        head = timings("b", HEAD, lambda b, i: 0.5 * i + b, lambda b, s: 0)
        profile = dataclasses.replace(
            PROFILE, links=(*PROFILE.links[:2], slow), layers=(*PROFILE.layers, *head)
        )
        estimate = dataclasses.replace(costs(), profile=profile).estimate(plan(("a", 1), ("b", 4)))
        assert estimate.bottleneck_seconds == pytest.approx(16 / 0.5)

    def test_one_lane_takes_its_round_trip(self) -> None:
        assert self.rounds(2, 1) == pytest.approx((18.91, 18.91, 2 / 18.91))

    def test_two_lanes_keep_the_bottleneck_busy(self) -> None:
        assert self.rounds(4, 2) == pytest.approx((2 * 14, 18.91 + 14, 4 / 28))

    def test_more_lanes_wait_for_it_one_after_the_other(self) -> None:
        assert self.rounds(8, 4) == pytest.approx((4 * 14, 18.91 + 3 * 14, 8 / 56))

    def test_where_no_device_is_busy_for_long_the_round_trip_is_longer(self) -> None:
        far = tuple(dataclasses.replace(link, latency_seconds=9) for link in PROFILE.links)
        profile = dataclasses.replace(PROFILE, links=far)
        work = dataclasses.replace(WORK, sequences=4, micro_batches=2)
        estimate = dataclasses.replace(costs(work=work), profile=profile).estimate(THERE_AND_BACK)
        trip = 18.91 + 8.99 + 8.9 + 8.7 + 8.99
        assert estimate.round_seconds() == estimate.decode_seconds == pytest.approx(trip)
        assert estimate.round_seconds(bubbles=True) == pytest.approx(trip + 14)


class TestInterfaces:
    """Three devices, 'c' like 'b'; to 'b' and back as measured, to 'c' and back without limits. Two
    hidden states are 32 bytes, two tokens 16, twelve hidden states 192."""

    ROUTE = plan(("a", 1), ("b", 2), ("a", 3), ("c", 4))

    def model(self, a: float = math.inf, b: float = math.inf, c: float = math.inf) -> CostModel:
        head = timings("b", HEAD, lambda b, i: 0.5 * i + b, lambda b, s: 0)
        profile = dataclasses.replace(PROFILE, layers=(*PROFILE.layers, *head))
        devices = tuple(
            Device(name, 10**6, kind=kind, interface_bytes_per_second=rate)
            for name, kind, rate in (("a", "a", a), ("b", "b", b), ("c", "b", c))
        )
        links = (Link("a", "c"), Link("c", "a", latency_seconds=0.5))
        return CostModel(MODEL, Cluster(devices, links, "a"), profile, WORK)

    def test_hops_to_different_devices_add_up_on_the_interface_they_leave_by(self) -> None:
        model = self.model(a=2)
        assert model.activation_hop("a", "b").occupancy_seconds == pytest.approx(32 / 2)
        estimate = model.estimate(self.ROUTE)
        assert estimate.bottleneck_seconds == pytest.approx(2 * 32 / 2)

    def test_so_do_those_from_different_devices_where_they_arrive(self) -> None:
        assert self.model(a=2).interface_seconds("abac") == pytest.approx(2 * 32 / 2)
        assert self.model(a=2).interface_seconds("aba") == pytest.approx(32 / 2)
        back = self.model(a=2).interface_seconds("cab")  # in from 'c', and the token from 'b'
        assert back == pytest.approx(max(32 + 16, 16 + 32) / 2)
        assert self.model().interface_seconds("abac") == 0.0

    def test_what_is_sent_and_what_is_received_do_not(self) -> None:
        estimate = self.model(b=2).estimate(self.ROUTE)
        assert estimate.bottleneck_seconds == pytest.approx(32 / 2)

    def test_a_hop_is_no_quicker_than_the_slower_of_two_interfaces(self) -> None:
        slow, quick = self.model(a=8, b=4), self.model()
        assert slow.activation_hop("a", "b").seconds == pytest.approx(0.1 + 32 / 4)
        assert slow.activation_hop("b", "a").seconds == pytest.approx(0.3 + 32 / 4)
        assert slow.activation_hop("a", "c").seconds == pytest.approx(32 / 8)
        assert slow.activation_hop("c", "a", 6).seconds == pytest.approx(0.5 + 192 / 8)
        more = 32 / 4 - 32 / 160 + 32 / 4 - 32 / 32 + 32 / 8 + 16 / 8
        before, after = (x.estimate(self.ROUTE).decode_seconds for x in (quick, slow))
        assert after - before == pytest.approx(more)

    def test_an_interface_that_is_faster_than_links_changes_nothing(self) -> None:
        model = self.model(a=10**9)
        assert model.activation_hop("a", "b").seconds == pytest.approx(0.3)
        slow = self.model(a=200, b=1000)
        assert slow.link("a", "b") == PROFILE.links[1]
        assert slow.estimate(
            plan(("a", 1), ("b", 3), ("a", 4))
        ).bottleneck_seconds == pytest.approx(14)

    def test_nothing_that_stays_on_a_device_passes_its_interface(self) -> None:
        assert self.model(a=1).estimate(WHOLE) == self.model().estimate(WHOLE)

    def test_chunks_of_a_prompt_wait_for_one_interface(self) -> None:
        """All of the first's way, then what the interface still has to send: with two chunks on
        their way to 'b' and, later, to 'c', it sends four messages, one after the other."""
        work = dataclasses.replace(WORK, prompt_tokens=512)
        model = dataclasses.replace(self.model(a=2), workload=work)
        message = 2 * 256 * 16 / 2
        estimate = model.estimate(self.ROUTE)
        assert estimate.prefill_seconds >= 4 * message
        unlimited = dataclasses.replace(self.model(), workload=work).estimate(self.ROUTE)
        assert estimate.prefill_seconds <= unlimited.prefill_seconds + 6 * message


class TestLoss:
    sensitivity = Sensitivity(
        MODEL.digest, "nats", 2.0, {"fp32": (0, 0, 0, 0), "bf16": (0.5, 0.25, 0.125, 1)}
    )

    def model(self) -> CostModel:
        layers = tuple(
            dataclasses.replace(timing, scheme=scheme)
            for timing in PROFILE.layers
            for scheme in ("fp32", "bf16", "fp16")
        )
        profile = dataclasses.replace(PROFILE, layers=layers)
        return dataclasses.replace(costs(), profile=profile, sensitivity=self.sensitivity)

    def test_is_the_sum_over_the_layers(self) -> None:
        mixed = plan(("a", 2), ("b", 3), ("a", 4), schemes=("fp32", "bf16", "bf16", "fp32"))
        assert self.model().estimate(mixed).loss == 0.25 + 0.125
        assert self.model().estimate(plan(("a", 4), schemes=("bf16",) * 4)).loss == 1.875
        assert self.model().estimate(WHOLE).loss == 0
        assert self.model().loss(3, "bf16") == 1

    def test_of_a_scheme_that_was_not_judged_has_no_bound(self) -> None:
        assert self.model().loss(1, "fp16") == float("inf")
        unknown = plan(("a", 4), schemes=("fp32", "fp16", "fp32", "fp32"))
        assert self.model().estimate(unknown).loss == float("inf")

    def test_is_nothing_where_nothing_was_judged(self) -> None:
        assert costs().loss(1, "fp16") == 0.0
        assert costs().estimate(WHOLE).loss == 0.0


class TestTied:
    def bytes_of(self, *stages: Stage) -> int:
        return device_bytes(TIED, stages, WORK) - WORKSPACE

    def test_one_stage_that_holds_the_whole_model_stores_the_matrix_once(self) -> None:
        assert self.bytes_of(*WHOLE.stages) == sum(LAYER_BYTES) - 10 * 4 * 4

    def test_at_half_the_width_half_as_much_is_shared(self) -> None:
        whole = plan(("a", 4), schemes=("bf16",) * 4)
        assert self.bytes_of(*whole.stages) == sum(LAYER_BYTES) // 2 - 10 * 4 * 2

    def test_two_stages_of_one_device_share_nothing(self) -> None:
        first, _, last = THERE_AND_BACK.stages
        assert self.bytes_of(first, last) == LAYER_BYTES[0] + LAYER_BYTES[3]
        neighbours = plan(("a", 2), ("a", 4)).stages
        assert self.bytes_of(*neighbours) == sum(LAYER_BYTES)

    def test_two_widths_share_nothing(self) -> None:
        mixed = plan(("a", 4), schemes=("fp32", "fp32", "fp32", "bf16"))
        assert self.bytes_of(*mixed.stages) == sum(LAYER_BYTES) - (40 + 4) * 2

    def test_a_model_that_is_not_tied_shares_nothing(self) -> None:
        assert device_bytes(MODEL, WHOLE.stages, WORK) == WORKSPACE + sum(LAYER_BYTES)


class TestMemory:
    needed = WORKSPACE + LAYER_BYTES[1] + LAYER_BYTES[2]

    def test_a_plan_that_fits_to_the_byte_fits(self) -> None:
        costs(b=self.needed).check_memory(THERE_AND_BACK)

    def test_a_byte_too_little_is_too_little(self) -> None:
        with pytest.raises(Infeasible) as caught:
            costs(b=self.needed - 1).check_memory(THERE_AND_BACK)
        assert caught.value.shortage_bytes == 1

    def test_the_device_and_the_shortage_are_named(self) -> None:
        with pytest.raises(Infeasible) as caught:
            costs(b=2800).check_memory(THERE_AND_BACK)
        assert str(caught.value) == (
            "device 'b' has 2.8 kB for weights, cache and workspace but would need 3.05 kB: 248 B "
            "too little"
        )
        assert caught.value.shortage_bytes == 248
        assert caught.value.exit_code == 3

    def test_a_device_that_the_plan_leaves_out_may_be_small(self) -> None:
        costs(b=1).check_memory(WHOLE)

    def test_a_tied_model_fits_where_an_untied_one_does_not(self) -> None:
        small = WORKSPACE + sum(LAYER_BYTES) - 10 * 4 * 4
        costs(TIED, a=small).check_memory(WHOLE)
        with pytest.raises(Infeasible):
            costs(MODEL, a=small).check_memory(WHOLE)


class TestMemoryLimit:
    def model(self, free: int, cap: int = 10**6) -> CostModel:
        readings = (PROFILE.devices[0], DeviceReading("b", 0.25, free))
        return dataclasses.replace(
            costs(b=cap), profile=dataclasses.replace(PROFILE, devices=readings)
        )

    def test_is_the_cap_where_free_memory_was_not_read(self) -> None:
        assert self.model(0).memory_limit("b") == 10**6

    def test_leaves_headroom_of_what_was_free(self) -> None:
        assert HEADROOM == 0.1
        assert self.model(5000).memory_limit("b") == 4500
        assert self.model(5000).capacity_bytes("b") == 4500 - WORKSPACE

    def test_is_the_cap_where_more_than_that_is_free(self) -> None:
        assert self.model(5000, cap=4499).memory_limit("b") == 4499
        assert self.model(5000, cap=4501).memory_limit("b") == 4500

    def test_belongs_to_the_kind(self) -> None:
        twin = Device("c", 10**6, kind="b")
        model = self.model(5000)
        cluster = Cluster((*model.cluster.devices, twin), (), "a")
        assert dataclasses.replace(model, cluster=cluster).memory_limit("c") == 4500

    def shared(self, *caps: int, machine: str = "one") -> list[int]:
        """Limits of devices on one machine with 10,000 bytes free, 9,000 less headroom."""
        names = "abcd"[: len(caps)]
        readings = tuple(DeviceReading(name, 0.25, 10_000, machine) for name in names)
        devices = tuple(Device(name, cap) for name, cap in zip(names, caps, strict=True))
        model = dataclasses.replace(
            costs(),
            cluster=Cluster(devices, (), "a"),
            profile=dataclasses.replace(PROFILE, devices=readings),
        )
        return [model.memory_limit(name) for name in names]

    def test_is_shared_by_the_devices_of_one_machine(self) -> None:
        assert self.shared(10**6) == [9000]
        assert self.shared(10**6, 10**6) == [4500, 4500]
        assert self.shared(10**6, 1000, 10**6) == [4000, 1000, 4000]
        assert self.shared(1000, 2000, 5000) == [1000, 2000, 5000]  # all fit
        assert self.shared(3000, 3001, 3000) == [3000, 3000, 3000]
        assert self.shared(10**6, 10**6, machine="") == [9000, 9000]  # nobody knows

    def test_is_what_the_processes_of_the_machines_devices_leave(self) -> None:
        """Of 10,000 bytes 1,000 and 2,000 are taken by two workers; a tenth is left alone."""
        readings = (
            DeviceReading("a", 0.5, 10_000, "one", process_bytes=1000),
            DeviceReading("b", 0.25, 10_000, "one", process_bytes=2000),
        )
        profile = dataclasses.replace(PROFILE, devices=readings)
        model = dataclasses.replace(costs(a=2000, b=10**6), profile=profile)
        assert [model.memory_limit(name) for name in "ab"] == [2000, 6300 - 2000]
        elsewhere = (readings[0], dataclasses.replace(readings[1], machine="two"))
        apart = dataclasses.replace(model, profile=dataclasses.replace(profile, devices=elsewhere))
        assert [apart.memory_limit(name) for name in "ab"] == [2000, 7200]

    def test_is_nothing_where_the_processes_take_more_than_is_free(self) -> None:
        readings = (PROFILE.devices[0], DeviceReading("b", 0.25, 1000, process_bytes=1001))
        profile = dataclasses.replace(PROFILE, devices=readings)
        assert dataclasses.replace(costs(), profile=profile).memory_limit("b") == 0

    def test_is_what_a_plan_must_fit(self) -> None:
        needed = TestMemory.needed
        enough = next(free for free in range(needed, 2 * needed) if round(0.9 * free) >= needed)
        self.model(enough).check_memory(THERE_AND_BACK)
        with pytest.raises(Infeasible) as caught:
            self.model(enough - 2).check_memory(THERE_AND_BACK)
        assert caught.value.shortage_bytes in (1, 2)

    def test_of_a_device_that_was_not_measured_is_unknown(self) -> None:
        alone = dataclasses.replace(PROFILE, devices=PROFILE.devices[:1])
        with pytest.raises(ProfileError, match=r"^profile: device 'b' was not measured$"):
            dataclasses.replace(costs(), profile=alone).memory_limit("b")
