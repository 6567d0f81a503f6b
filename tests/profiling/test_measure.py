"""Measuring real processes: complete, positive, and true to what the cluster file emulates."""

import numpy as np
import pytest

from edgewise.clusters import Cluster, Device, Link, Network
from edgewise.costs import CostModel
from edgewise.models.checkpoint import open_checkpoint
from edgewise.planning import PLANNERS, Problem
from edgewise.profiles import Profile
from edgewise.profiling import Grid, measure, num_measurements
from edgewise.profiling.bench import PRECISION, is_known
from edgewise.profiling.measure import LEAST_SHARE, step_and_blocks
from edgewise.runtime.local import start_local
from edgewise.schemes import get_scheme
from edgewise.specs import LayerKind, Workload
from tests.kinds import DECODER_KINDS

LATENCY, RATE = 0.004, 2e6
CLUSTER = Cluster(
    (Device("fast", 10**9), Device("slow", 10**9, slowdown=8.0)),
    (Link("fast", "slow", RATE, LATENCY), Link("slow", "fast", RATE * 4, LATENCY)),
    "fast",
)
GRID = Grid.around(Workload(20, 20))


@pytest.fixture(scope="module")
def measured(checkpoint):
    model = str(checkpoint("llama"))
    spec = open_checkpoint(model).spec
    progress = []
    with start_local(CLUSTER) as devices:
        profile = measure(devices, model, spec, ["fp32"], GRID, progress.append)
    return profile, progress, spec


def test_every_kind_of_layer_is_timed_on_every_device(measured):
    profile = measured[0]
    for device in ("fast", "slow"):
        assert profile.reading(device).step_seconds >= 0
        assert profile.reading(device).free_bytes > 2 * profile.reading(device).process_bytes
        assert 2**25 < profile.reading(device).process_bytes < 2**30  # Python and torch
        for kind in DECODER_KINDS:
            assert profile.decode_seconds(device, kind, "fp32", 25) >= 0
        assert profile.prefill_seconds(device, LayerKind.BLOCK, "fp32", 20) > 0
        assert profile.decode_seconds(device, LayerKind.BLOCK, "fp32", 25) > 0


def test_layers_take_the_bytes_that_the_cost_model_counts(measured, checkpoint):
    profile = measured[0]
    spec = open_checkpoint(str(checkpoint("llama"))).spec
    held = {(x.device, x.layer): x.weight_bytes for x in profile.memory}
    assert len(held) == 6
    for name, layer in zip(spec.classes, spec.layers, strict=True):
        for device in ("fast", "slow"):
            assert held[device, name] == layer.weight_bytes(get_scheme("fp32"))


@pytest.mark.timing
def test_a_slowdown_shows(measured):
    profile = measured[0]
    fast, slow = (
        profile.reading(name).step_seconds
        + 4 * profile.decode_seconds(name, LayerKind.BLOCK, "fp32", 25)
        for name in ("fast", "slow")
    )
    assert 4 < slow / fast < 16  # emulated: 8; the machine is shared


@pytest.mark.timing
def test_links_are_as_emulated(measured):
    profile = measured[0]
    there, back = profile.link("fast", "slow"), profile.link("slow", "fast")
    assert LATENCY <= there.latency_seconds < 2 * LATENCY  # and what messages cost
    assert there.bytes_per_second == pytest.approx(RATE, rel=0.25)
    assert back.bytes_per_second == pytest.approx(4 * RATE, rel=0.25)
    assert 0 < profile.link("fast", "fast").latency_seconds < LATENCY


def test_a_profile_survives_its_file(measured):
    profile = measured[0]
    assert Profile.from_json(profile.to_json()) == profile


def test_progress_is_reported(measured):
    assert len(measured[1]) <= num_measurements(measured[2], CLUSTER, ["fp32"], GRID)
    assert any("link" in what for what in measured[1])


@pytest.mark.parametrize("workload", [Workload(1, 1), Workload(63, 1), Workload(1, 63)])
def test_a_grid_stays_within_its_workload(workload):
    grid = Grid.around(workload)
    assert grid.context <= max(workload.context, 2)
    assert all(tokens == 1 and past >= 1 for _, tokens, past in grid.decode)
    assert all(tokens > 1 and past == 0 for _, tokens, past in grid.prefill)


def test_a_long_prompt_is_measured_as_it_travels():
    assert Grid.around(Workload(900, 20)).prefill == ((1, 128, 0), (1, 256, 0), (1, 256, 644))
    assert max(tokens for _, tokens, _ in Grid.wide(2048).prefill) == 256
    assert (1, 256, 2048 - 257) in Grid.wide(2048).prefill


def test_devices_of_one_kind_are_measured_once(checkpoint):
    model = str(checkpoint("opt"))
    spec = open_checkpoint(model).spec
    twins = tuple(Device(name, 10**9, kind="agx") for name in ("a", "b"))
    network = Network(("a", "b"), 1e8, 0.0)
    with start_local(Cluster(twins, (), "a", (network,))) as devices:
        profile = measure(devices, model, spec, ["fp32", "bf16"], Grid.around(Workload(63, 1)))
    assert [reading.device for reading in profile.devices] == ["agx"]
    assert profile.schemes == ("fp32", "bf16")
    assert {(link.source, link.target) for link in profile.links} == {
        ("a", "a"),
        ("a", "b"),
        ("b", "a"),
    }


def test_a_median_is_known_once_its_error_is_small():
    """Of normal numbers: where it says so, medians are off by no more than a few errors."""
    rng, wrong, count = np.random.default_rng(0), [], []
    for _ in range(200):
        numbers = rng.normal(1.0, 0.03, 200)
        count.append(next(n for n in range(5, 200) if is_known(numbers[:n].tolist())))
        wrong.append(abs(float(np.median(numbers[: count[-1]])) - 1.0))
    assert np.mean(count) > 6  # three times PRECISION takes more than the fewest
    assert np.mean(np.array(wrong) > 3 * PRECISION) < 0.1
    assert is_known([1.0] * 5)
    assert not is_known([0.5, 1.0, 1.5, 1.0, 0.7])


TWO = Grid(decode=((1, 1, 10), (1, 1, 20)), prefill=((1, 20, 0),))


def test_a_step_and_a_block_are_told_apart():
    one = {(1, 1, 10): 3.0, (1, 1, 20): 4.0, (1, 20, 0): 12.0}
    several = {(1, 1, 10): 9.0, (1, 1, 20): 13.0}
    step, blocks = step_and_blocks({"block": one}, several, {"block": 4}, TWO)
    assert step == pytest.approx(1.0)
    expected = {(1, 1, 10): 2.0, (1, 1, 20): 3.0, (1, 20, 0): 11.0}
    assert blocks == {"block": pytest.approx(expected)}


def test_a_step_and_blocks_of_three_classes_are_told_apart():
    """A step of 1; blocks of 2, 5 and 7 after 10 tokens, 3, 5 and 9 after 20; the third is none of
    those that ran together, two of the first and one of the second."""
    alone = {
        "narrow": {(1, 1, 10): 3.0, (1, 1, 20): 4.0, (1, 20, 0): 12.0},
        "wide": {(1, 1, 10): 6.0, (1, 1, 20): 6.0, (1, 20, 0): 31.0},
        "last": {(1, 1, 10): 8.0, (1, 1, 20): 10.0, (1, 20, 0): 41.0},
    }
    together = {(1, 1, 10): 1.0 + 2 + 2 + 5, (1, 1, 20): 1.0 + 3 + 3 + 5}
    step, blocks = step_and_blocks(alone, together, {"narrow": 2, "wide": 1}, TWO)
    assert step == pytest.approx(1.0)
    assert blocks == {
        "narrow": pytest.approx({(1, 1, 10): 2.0, (1, 1, 20): 3.0, (1, 20, 0): 11.0}),
        "wide": pytest.approx({(1, 1, 10): 5.0, (1, 1, 20): 5.0, (1, 20, 0): 30.0}),
        "last": pytest.approx({(1, 1, 10): 7.0, (1, 1, 20): 9.0, (1, 20, 0): 40.0}),
    }


def test_noise_never_says_that_a_block_takes_nothing():
    one = {(1, 1, 10): 3.0, (1, 1, 20): 4.0, (1, 20, 0): 2.0}  # a prompt quicker than a token
    several = {(1, 1, 10): 2.5, (1, 1, 20): 4.0}  # four blocks quicker than one
    step, blocks = step_and_blocks({"block": one}, several, {"block": 4}, TWO)
    least = 3.0 * LEAST_SHARE
    assert step == pytest.approx((3.0 - least + 4.0 - 4.0 * LEAST_SHARE) / 2)
    expected = {(1, 1, 10): least, (1, 1, 20): 4.0 * LEAST_SHARE, (1, 20, 0): least}
    assert blocks == {"block": pytest.approx(expected)}


def test_unlike_blocks_are_timed_each_by_itself_and_priced(checkpoint):
    """Two blocks see everything, the others the last five tokens."""
    model = str(checkpoint("qwen2-window"))
    spec = open_checkpoint(model).spec
    assert set(spec.classes) == {"embedding", "block 1", "block 2", "head"}
    cluster = Cluster((Device("fast", 10**9),), (), "fast")
    grid = Grid(decode=((1, 1, 10), (1, 1, 60)), prefill=((1, 2, 0), (1, 20, 0)))
    with start_local(cluster) as devices:
        profile = measure(devices, model, spec, ["fp32"], grid)
    assert profile.classes == ("embedding", "block 1", "block 2", "head")
    assert {x.layer: x.weight_bytes for x in profile.memory} == {
        name: layer.weight_bytes(get_scheme("fp32"))
        for name, layer in zip(spec.classes, spec.layers, strict=True)
    }
    costs = CostModel(spec, cluster, profile, Workload(20, 20))
    plan = PLANNERS["joint"](Problem(costs)).plan
    seconds = profile.reading("fast").step_seconds + sum(
        profile.decode_seconds("fast", name, "fp32", 30) for name in spec.classes
    )
    assert costs.estimate(plan).stages[0].decode_seconds == pytest.approx(seconds)
