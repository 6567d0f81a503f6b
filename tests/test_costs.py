"""The cost model against sums done by hand. The figures are chosen so that no two terms are alike.

Two devices, four layers, 6 tokens in and 4 out, two sequences at a time: caches hold 2 x 10 tokens,
decoding is judged after 8.
"""

import dataclasses

import pytest

from edgewise.costs import CostModel, device_bytes, layer_bytes, workspace_bytes
from edgewise.errors import Infeasible, ProfileError
from edgewise.plans import Plan, Stage
from edgewise.profiles import LayerTiming, LinkTiming, Profile, StepTiming
from edgewise.specs import Cluster, Device, LayerKind, LayerSpec, Link, ModelSpec, Workload

EMBEDDING, BLOCK, HEAD = LayerKind.EMBEDDING, LayerKind.BLOCK, LayerKind.HEAD
WORK = Workload(prompt_tokens=6, new_tokens=4, sequences=2)
MODEL = ModelSpec(
    "tiny",
    (
        LayerSpec(EMBEDDING, ((10, 4),), 0),
        LayerSpec(BLOCK, ((8, 4), (4, 4)), 3),
        LayerSpec(BLOCK, ((8, 4), (4, 8)), 3),
        LayerSpec(HEAD, ((10, 4),), 4),
    ),
    hidden_size=4,
    vocab_size=10,
    max_context=32,
    kv_width=6,
    tied=False,
)
TIED = dataclasses.replace(MODEL, tied=True)

# Bytes in fp32, layer by layer, then what a device needs besides. A hidden state is 16 bytes.
CACHE = 20 * 6 * 4
LAYER_BYTES = (10 * 4 * 4, (32 + 16 + 3) * 4 + CACHE, (32 + 32 + 3) * 4 + CACHE, (40 + 4) * 4)
WORKSPACE = 4 * (6 * (2 * 8 + 4 * 4) + 10)


def timings(
    device: str, kind: LayerKind, decode: tuple[float, float], prefill: tuple[float, float]
) -> tuple[LayerTiming, ...]:
    """Decoding after 4 and after 12 tokens, prompts of 2 and of 10."""
    shapes = ((1, 4, decode[0]), (1, 12, decode[1]), (2, 0, prefill[0]), (10, 0, prefill[1]))
    return tuple(LayerTiming(device, kind, "fp32", *shape) for shape in shapes)


PROFILE = Profile(
    MODEL.digest,
    (
        *timings("a", EMBEDDING, (1, 1), (1, 5)),  # 1 per token; 3 for the prompt
        *timings("a", BLOCK, (2, 4), (7, 9)),  # 3; 8
        *timings("a", HEAD, (8, 16), (0, 0)),  # 12 at 8 tokens, 10 at 6
        *timings("b", EMBEDDING, (3, 3), (2, 2)),
        *timings("b", BLOCK, (1, 2), (4, 5)),  # 1.5; 4.5
    ),
    (StepTiming("a", 0.5), StepTiming("b", 0.25)),
    (
        LinkTiming("a", "a", 0.01, 800),  # a token 0.02
        LinkTiming("a", "b", 0.1, 160),  # a token 0.15, a hidden state 0.2, six 0.7
        LinkTiming("b", "a", 0.3, 32),  # a token 0.55, a hidden state 0.8, six 3.3
    ),
)


def costs(model: ModelSpec = MODEL, work: Workload = WORK, a: int = 10**6, b: int = 10**6):
    links = (Link("a", "b"), Link("b", "a"))
    cluster = Cluster((Device("a", a), Device("b", b)), links, "a")
    return CostModel(model, cluster, PROFILE, work)


def plan(*stages: tuple[str, int], schemes: tuple[str, ...] = ("fp32",) * 4) -> Plan:
    """A plan from (device, end) pairs."""
    found, at = [], 0
    for device, end in stages:
        found.append(Stage(device, at, end, schemes[at:end]))
        at = end
    return Plan("tiny", MODEL.digest, 4, tuple(found))


WHOLE = plan(("a", 4))
THERE_AND_BACK = plan(("a", 1), ("b", 3), ("a", 4))


class TestSeconds:
    def test_a_token_on_one_device(self) -> None:
        estimate = costs().estimate(WHOLE)
        assert estimate.decode_seconds == pytest.approx(0.02 + (0.5 + 1 + 3 + 3 + 12) + 0.02)

    def test_a_prompt_on_one_device(self) -> None:
        estimate = costs().estimate(WHOLE)
        assert estimate.prefill_seconds == pytest.approx(0.02 + (0.5 + 3 + 8 + 8 + 10) + 0.02)

    def test_a_token_there_and_back(self) -> None:
        estimate = costs().estimate(THERE_AND_BACK)
        a, b, again = 0.5 + 1, 0.25 + 1.5 + 1.5, 0.5 + 12
        assert estimate.decode_seconds == pytest.approx(0.02 + a + 0.2 + b + 0.8 + again + 0.02)

    def test_a_prompt_there_and_back(self) -> None:
        estimate = costs().estimate(THERE_AND_BACK)
        a, b, again = 0.5 + 3, 0.25 + 4.5 + 4.5, 0.5 + 10
        assert estimate.prefill_seconds == pytest.approx(0.02 + a + 0.7 + b + 3.3 + again + 0.02)

    def test_an_answer_that_ends_elsewhere_sends_only_the_token_back(self) -> None:
        head = timings("b", HEAD, (5, 7), (0, 0))  # 6 at 8 tokens
        profile = dataclasses.replace(PROFILE, layers=(*PROFILE.layers, *head))
        estimate = dataclasses.replace(costs(), profile=profile).estimate(plan(("a", 2), ("b", 4)))
        assert estimate.return_seconds == pytest.approx(0.55)
        a, b = 0.5 + 1 + 3, 0.25 + 1.5 + 6
        assert estimate.decode_seconds == pytest.approx(0.02 + a + 0.2 + b + 0.55)

    def test_a_plan_that_begins_elsewhere_sends_the_token_there(self) -> None:
        estimate = costs().estimate(plan(("b", 3), ("a", 4)))
        b, a = 0.25 + 3 + 1.5 + 1.5, 0.5 + 12
        assert estimate.stages[0].hop_seconds == pytest.approx(0.15)
        assert estimate.decode_seconds == pytest.approx(0.15 + b + 0.8 + a + 0.02)

    def test_every_stage_shows_its_share(self) -> None:
        estimate = costs().estimate(THERE_AND_BACK)
        shown = [(s.decode_seconds, s.prefill_seconds, s.hop_seconds) for s in estimate.stages]
        assert shown == [
            pytest.approx((1.5, 3.5, 0.02)),
            pytest.approx((3.25, 9.25, 0.2)),
            pytest.approx((12.5, 10.5, 0.8)),
        ]
        assert [s.stage for s in estimate.stages] == list(THERE_AND_BACK.stages)
        assert estimate.return_seconds == pytest.approx(0.02)

    def test_stages_that_follow_each_other_on_a_device_pay_for_a_step_but_no_hop(self) -> None:
        estimate = costs().estimate(plan(("a", 2), ("a", 4)))
        whole = costs().estimate(WHOLE)
        assert estimate.stages[1].hop_seconds == 0.0
        assert estimate.decode_seconds == pytest.approx(whole.decode_seconds + 0.5)
        assert estimate.prefill_seconds == pytest.approx(whole.prefill_seconds + 0.5)

    def test_a_longer_answer_is_judged_at_its_middle(self) -> None:
        longer = dataclasses.replace(WORK, new_tokens=12)  # after 12 tokens
        estimate = costs(work=longer).estimate(WHOLE)
        assert estimate.decode_seconds == pytest.approx(0.02 + (0.5 + 1 + 4 + 4 + 16) + 0.02)

    def test_what_planners_add_up_is_what_a_plan_costs(self) -> None:
        model = costs()
        entering = model.enter_seconds("a", "b") + model.enter_seconds("b", "a")
        layers = zip((0, 1, 2, 3), ("a", "b", "b", "a"), strict=True)
        computing = sum(model.decode_seconds(layer, name, "fp32") for layer, name in layers)
        ends = 2 * model.token_hop("a", "a") + PROFILE.step_seconds("a")
        whole = model.estimate(THERE_AND_BACK).decode_seconds
        assert entering + computing + ends == pytest.approx(whole)

    def test_staying_on_a_device_is_free_and_entering_costs_hop_and_step(self) -> None:
        model = costs()
        assert model.enter_seconds("b", "b") == model.activation_hop("b", "b") == 0.0
        assert model.activation_hop("a", "b") == pytest.approx(0.2)
        assert model.enter_seconds("a", "b") == pytest.approx(0.2 + 0.25)

    def test_without_a_link_a_hop_takes_forever(self) -> None:
        one_way = dataclasses.replace(PROFILE, links=PROFILE.links[:2])
        model = dataclasses.replace(costs(), profile=one_way)
        assert model.hop_seconds("b", "a", 1) == float("inf")
        assert model.estimate(THERE_AND_BACK).decode_seconds == float("inf")
        assert model.estimate(WHOLE).decode_seconds < float("inf")

    def test_a_layer_that_was_not_measured_there_is_named(self) -> None:
        with pytest.raises(ProfileError) as caught:
            costs().estimate(plan(("a", 3), ("b", 4)))
        assert str(caught.value) == "profile: no decode time of head in fp32 on 'b'"


class TestBytes:
    @pytest.mark.parametrize("layer", range(4))
    def test_a_layer_takes_its_weights_and_a_block_its_cache(self, layer: int) -> None:
        assert layer_bytes(MODEL, layer, "fp32", WORK) == LAYER_BYTES[layer]
        assert costs().layer_bytes(layer, "fp32") == LAYER_BYTES[layer]

    def test_a_narrower_scheme_narrows_weights_and_cache(self) -> None:
        assert layer_bytes(MODEL, 1, "bf16", WORK) == (32 + 16 + 3) * 2 + 20 * 6 * 2

    def test_the_workspace_holds_the_prompt(self) -> None:
        assert workspace_bytes(MODEL, WORK) == WORKSPACE

    def test_the_workspace_holds_no_more_than_a_chunk_of_a_long_prompt(self) -> None:
        expected = 4 * (256 * (2 * 8 + 4 * 4) + 10)
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
            costs(b=2000).check_memory(THERE_AND_BACK)
        assert str(caught.value) == ("device 'b' has 2 kB but would need 2.24 kB: 240 B too little")
        assert caught.value.shortage_bytes == 240
        assert caught.value.exit_code == 3

    def test_a_device_that_the_plan_leaves_out_may_be_small(self) -> None:
        costs(b=1).check_memory(WHOLE)

    def test_a_tied_model_fits_where_an_untied_one_does_not(self) -> None:
        small = WORKSPACE + sum(LAYER_BYTES) - 10 * 4 * 4
        costs(TIED, a=small).check_memory(WHOLE)
        with pytest.raises(Infeasible):
            costs(MODEL, a=small).check_memory(WHOLE)
