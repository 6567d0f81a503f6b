"""Testbeds load, are consistent, and give the published sums."""

import time
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import pytest

from edgewise.costs import CostModel
from edgewise.errors import ClusterError, InputError, ProfileError
from edgewise.models.config import DecoderConfig
from edgewise.plans import Plan, Stage
from edgewise.schemes import get_scheme
from edgewise.simulation import SHAPES, TESTBEDS, load_testbed, simulate_plan, together
from edgewise.simulation.rooflines import Roofline, load_rooflines, make_profile
from edgewise.simulation.testbeds import LLAMA2_7B, LLAMA2_13B, LLAMA2_70B
from edgewise.specs import LayerKind, ModelSpec, Workload
from tests.kinds import DECODER_KINDS

MEGABIT = 1e6 / 8  # bytes per second


@pytest.mark.parametrize(
    ("shape", "hidden", "ffn", "blocks", "heads", "kv_heads"),
    [
        (LLAMA2_7B, 4096, 11008, 32, 32, 32),
        (LLAMA2_13B, 5120, 13824, 40, 40, 40),
        (LLAMA2_70B, 8192, 28672, 80, 64, 8),
    ],
)
def test_shapes_are_those_of_the_checkpoints(
    shape: ModelSpec, hidden: int, ffn: int, blocks: int, heads: int, kv_heads: int
) -> None:
    config = {
        "architectures": ["LlamaForCausalLM"],
        "hidden_size": hidden,
        "intermediate_size": ffn,
        "num_hidden_layers": blocks,
        "num_attention_heads": heads,
        "num_key_value_heads": kv_heads,
        "max_position_embeddings": 4096,
        "vocab_size": 32000,
    }
    spec = DecoderConfig.from_dict(config).spec(shape.name)
    # What else layers do (positions, norms) tells profiles apart, but costs nothing of its own.
    assert replace(spec, computation="") == shape


@pytest.mark.parametrize("name", TESTBEDS)
def test_every_kind_has_figures_and_every_device_is_reachable(name: str) -> None:
    schemes = ("fp32", "bf16", "fp16")
    cluster, profile = load_testbed(name, LLAMA2_7B, schemes=schemes)
    assert not cluster.unreachable()
    assert profile.model == LLAMA2_7B.digest
    kinds = {device.kind for device in cluster.devices}
    assert kinds == {reading.device for reading in profile.devices}
    for kind in kinds:
        for scheme in schemes:
            for layer in DECODER_KINDS:
                one = profile.decode_seconds(kind, layer, scheme, 100)
                assert 0 < one <= profile.decode_seconds(kind, layer, scheme, 1000, 8)


def test_edgeshard_has_its_devices_and_links() -> None:
    cluster, _ = load_testbed("edgeshard", LLAMA2_7B)
    kinds = [device.kind for device in cluster.devices]
    assert {kind: kinds.count(kind) for kind in kinds} == {"agx": 12, "nx": 2, "rtx3090": 1}
    assert cluster.device("agx-3").memory_bytes == 29 * 2**30
    for source, target, rate in (
        ("agx-1", "rtx3090", 1), ("rtx3090", "agx-1", 1), ("agx-1", "nx-2", 50),
        ("nx-1", "rtx3090", 50),
    ):  # fmt: skip
        link = cluster.link(source, target)
        assert link is not None
        assert link.bytes_per_second == rate * MEGABIT
        assert link.latency_seconds == pytest.approx(0.0021)


@pytest.mark.parametrize(("kind", "total"), [("nx", 198.55), ("agx", 173.97), ("rtx3090", 26.07)])
def test_edgeshard_sums_equal_the_published_ones(kind: str, total: float) -> None:
    _, profile = load_testbed("edgeshard", LLAMA2_7B)
    seconds = [profile.decode_seconds(kind, layer.kind, "fp32", 80) for layer in LLAMA2_7B.layers]
    assert sum(seconds) * 1e3 == pytest.approx(total, abs=1e-9)


def test_other_models_and_schemes_scale_with_their_weights() -> None:
    _, small = load_testbed("edgeshard", LLAMA2_7B)
    fp32, fp16 = get_scheme("fp32"), get_scheme("fp16")
    for model in SHAPES[1:]:
        _, large = load_testbed("edgeshard", model, schemes=("fp32", "fp16"))
        for layer in (0, 1, model.num_layers - 1):
            kind, grown = model.layers[layer].kind, model.layers[layer]
            reference = LLAMA2_7B.layers[min(layer, 33)].weight_bytes(fp32)
            seconds = small.decode_seconds("agx", kind, "fp32", 80)
            for scheme in (fp32, fp16):
                expected = seconds * grown.weight_bytes(scheme) / reference
                scaled = large.decode_seconds("agx", kind, scheme.name, 80)
                assert scaled == pytest.approx(expected, rel=0.02)


def test_the_source_and_the_link_to_the_cloud_can_be_changed() -> None:
    cluster, _ = load_testbed(
        "edgeshard", LLAMA2_7B, source="nx-1", source_bytes_per_second=10 * MEGABIT
    )
    assert cluster.source == "nx-1"
    rates = {
        ends: link.bytes_per_second / MEGABIT
        for ends in (("nx-1", "rtx3090"), ("rtx3090", "nx-1"), ("agx-1", "rtx3090"))
        if (link := cluster.link(*ends))
    }
    assert list(rates.values()) == pytest.approx([10, 10, 50])
    cloud, _ = load_testbed("edgeshard", LLAMA2_7B, source="rtx3090")
    assert cloud.links == ()
    with pytest.raises(ClusterError, match="unknown device 'tpu'"):
        load_testbed("edgeshard", LLAMA2_7B, source="tpu")
    with pytest.raises(InputError, match="known testbeds: edgeshard, home, campus"):
        load_testbed("moon", LLAMA2_7B)


def placed(cuts: tuple[int, ...], names: tuple[str, ...]) -> Plan:
    stages = tuple(
        Stage(name, start, end, ("fp32",) * (end - start))
        for name, (start, end) in zip(names, pairwise(cuts), strict=True)
    )
    return Plan(LLAMA2_7B.name, LLAMA2_7B.digest, LLAMA2_7B.num_layers, stages)


@pytest.mark.parametrize(
    ("megabits", "cuts", "names", "milliseconds"),
    [
        (1, (0, 4, 5, 34), ("agx-1", "agx-2", "rtx3090"), 56.9),
        (1, (0, 34), ("agx-1",), 174.0),
        (1, (0, 17, 34), ("agx-1", "rtx3090"), 234.8),
        (10, (0, 17, 34), ("agx-1", "rtx3090"), 116.7),
        (50, (0, 17, 34), ("agx-1", "rtx3090"), 106.2),
    ],
)
def test_edgeshard_plans_take_what_the_notes_computed(
    megabits: float, cuts: tuple[int, ...], names: tuple[str, ...], milliseconds: float
) -> None:
    """Planning notes, section 1.10 (exact search on the arrays; here blocks are equal), a token
    returning. They fit, with cache and workspace."""
    rate = megabits * MEGABIT
    cluster, profile = load_testbed("edgeshard", LLAMA2_7B, source_bytes_per_second=rate)
    costs, plan = CostModel(LLAMA2_7B, cluster, profile, Workload(32, 96)), placed(cuts, names)
    costs.check_memory(plan)
    times = simulate_plan(costs, plan, together(1, 32, 96)).requests[0].token_seconds
    assert (times[-1] - times[0]) / 95 * 1e3 == pytest.approx(milliseconds, rel=0.015)


def test_a_thousand_devices_load_quickly() -> None:
    began = time.process_time()
    cluster, profile = load_testbed("campus", LLAMA2_7B, schemes=("fp32", "bf16"))
    assert time.process_time() - began < 2
    assert len(cluster.devices) == 1000
    assert len({device.kind for device in cluster.devices}) == len(profile.devices) == 10
    assert len(cluster.networks) == 3
    room, wired, wireless = (
        cluster.link("gateway", name) for name in ("gpu-server-12", "pi-120", "laptop-300")
    )
    assert room and wired and wireless
    assert room.bytes_per_second > wired.bytes_per_second > wireless.bytes_per_second


def test_a_roofline_is_the_slower_of_reading_and_computing() -> None:
    device = Roofline("x", 1e12, 1e10, overhead_seconds=1e-3, scheme_overheads={"bf16": 5e-3})
    block, fp32 = LLAMA2_7B.layers[1], get_scheme("fp32")
    weights, cache = 202_383_360 * 4, 101 * 8192 * 4
    states = 2 * 4096 * 4
    one = device.seconds(LLAMA2_7B, block, fp32, (1, 1, 100))
    assert one == pytest.approx((weights + cache + states) / 1e10 + 1e-3, rel=1e-12)
    flops = 512 * (2 * (202_383_360 - 8192) + 4 * 256.5 * 4096)
    many = device.seconds(LLAMA2_7B, block, fp32, (1, 512, 0))
    assert many == pytest.approx(flops / 1e12 + 1e-3, rel=1e-12)
    half = device.seconds(LLAMA2_7B, block, get_scheme("bf16"), (1, 1, 100))
    assert half == pytest.approx(one / 2 + 4.5e-3, rel=1e-2)
    embedding = device.seconds(LLAMA2_7B, LLAMA2_7B.layers[0], fp32, (1, 2, 0))
    assert embedding == pytest.approx(6 * 4096 * 4 / 1e10 + 1e-3)
    measured = replace(device, layer_seconds={LayerKind.BLOCK: 0.25})
    assert measured.seconds(LLAMA2_7B, block, fp32, (1, 1, 100), LLAMA2_7B) == 0.251
    with pytest.raises(ProfileError, match="need a reference model"):
        measured.seconds(LLAMA2_7B, block, fp32, (1, 1, 100))


@pytest.mark.parametrize("name", TESTBEDS)
def test_the_fitted_profile_stays_near_the_roofline(name: str) -> None:
    """The regressions know no kink: near the ridge they are off by up to a fifth."""
    folder = Path(load_testbed.__code__.co_filename).with_name("testbeds")
    kinds = load_rooflines(folder / f"{name}.kinds.toml")
    profile = make_profile(LLAMA2_7B, kinds, ("fp32",), LLAMA2_7B)
    block, fp32 = LLAMA2_7B.layers[1], get_scheme("fp32")
    for kind in kinds:
        for context in (64, 512, 1000):
            exact = kind.seconds(LLAMA2_7B, block, fp32, (1, 1, context), LLAMA2_7B)
            fitted = profile.decode_seconds(kind.name, LayerKind.BLOCK, "fp32", context)
            assert fitted == pytest.approx(exact, rel=0.05)
        for tokens in (32, 128, 256):
            exact = kind.seconds(LLAMA2_7B, block, fp32, (1, tokens, 0), LLAMA2_7B)
            fitted = profile.prefill_seconds(kind.name, LayerKind.BLOCK, "fp32", tokens)
            assert fitted == pytest.approx(exact, rel=0.21)


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("speed = 3", "the file: unknown key 'speed'"),
        ("kind = [", "kinds.toml"),
        ('[[kind]]\nname = "a"', "kind 'a': key 'gigaflops' is missing"),
        ('[[kind]]\nname = "a"\ngigaflops = 1', "either gigabytes_per_second or"),
        ('[[kind]]\nname = "a"\ngigaflops = 0\ngigabytes_per_second = 1', "must be positive"),
        ('[[kind]]\nname = "a"\ngflops = 1', "a kind: unknown key 'gflops'"),
        ("kind = [3]", "a kind must be a table"),
        ('[[kind]]\nname = "a"\ngigaflops = 1\ngigabytes_per_second = 1\n' * 2, "two kinds"),
        (
            '[[kind]]\nname = "a"\ngigaflops = 1\nlayer_milliseconds = { all = 1 }',
            "layer_milliseconds: key 'embedding' is missing",
        ),
        (
            '[[kind]]\nname = "a"\ngigaflops = 1\ngigabytes_per_second = 1\nstep = "2 furlongs"',
            "'2 furlongs' is not a time",
        ),
        (
            '[[kind]]\nname = "a"\ngigaflops = 1\ngigabytes_per_second = 1\n'
            "scheme_overheads = { q1 = '1 ms' }",
            "scheme_overheads: unknown key 'q1'",
        ),
    ],
)
def test_wrong_figures_are_named(tmp_path: Path, text: str, reason: str) -> None:
    path = tmp_path / "kinds.toml"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(InputError, match=reason) as caught:
        load_rooflines(path)
    assert str(path) in str(caught.value)
