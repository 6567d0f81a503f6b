"""Measuring real processes: complete, positive, and true to what the cluster file emulates."""

import numpy as np
import pytest

from edgewise.clusters import Cluster, Device, Link, Network
from edgewise.models.checkpoint import open_checkpoint
from edgewise.profiles import Profile
from edgewise.profiling import Grid, measure, num_measurements
from edgewise.profiling.measure import LEAST_SHARE, PRECISION, is_known, step_and_block
from edgewise.runtime.local import LocalDevices
from edgewise.schemes import get_scheme
from edgewise.specs import LayerKind, Workload

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
    with LocalDevices(CLUSTER) as devices:
        profile = measure(devices, model, spec, ["fp32"], GRID, progress.append)
    return profile, progress


def test_every_kind_of_layer_is_timed_on_every_device(measured):
    profile, _ = measured
    for device in ("fast", "slow"):
        assert profile.reading(device).step_seconds >= 0
        assert profile.reading(device).free_bytes > 0
        for kind in LayerKind:
            assert profile.decode_seconds(device, kind, "fp32", 25) >= 0
        assert profile.prefill_seconds(device, LayerKind.BLOCK, "fp32", 20) > 0
        assert profile.decode_seconds(device, LayerKind.BLOCK, "fp32", 25) > 0


def test_layers_take_the_bytes_that_the_cost_model_counts(measured, checkpoint):
    profile, _ = measured
    spec = open_checkpoint(str(checkpoint("llama"))).spec
    found = {(x.device, x.kind): x.weight_bytes for x in profile.memory}
    assert len(found) == 6
    for layer in spec.layers:
        for device in ("fast", "slow"):
            assert found[device, layer.kind] == layer.weight_bytes(get_scheme("fp32"))


def test_a_slowdown_shows(measured):
    profile, _ = measured
    fast, slow = (
        profile.reading(name).step_seconds
        + 4 * profile.decode_seconds(name, LayerKind.BLOCK, "fp32", 25)
        for name in ("fast", "slow")
    )
    assert 4 < slow / fast < 16  # emulated: 8; the machine is shared


def test_links_are_as_emulated(measured):
    profile, _ = measured
    there, back = profile.link("fast", "slow"), profile.link("slow", "fast")
    assert there.latency_seconds == pytest.approx(LATENCY, rel=0.5)
    assert there.bytes_per_second == pytest.approx(RATE, rel=0.25)
    assert back.bytes_per_second == pytest.approx(4 * RATE, rel=0.25)
    assert 0 < profile.link("fast", "fast").latency_seconds < LATENCY


def test_a_profile_survives_its_file(measured):
    profile, _ = measured
    assert Profile.from_json(profile.to_json()) == profile


def test_progress_is_reported(measured):
    assert len(measured[1]) <= num_measurements(CLUSTER, ["fp32"], GRID)
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
    with LocalDevices(Cluster(twins, (), "a", (network,))) as devices:
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
    step, block = step_and_block(one, several, 4, TWO)
    assert step == pytest.approx(1.0)
    assert block == pytest.approx({(1, 1, 10): 2.0, (1, 1, 20): 3.0, (1, 20, 0): 11.0})


def test_noise_never_says_that_a_block_takes_nothing():
    one = {(1, 1, 10): 3.0, (1, 1, 20): 4.0, (1, 20, 0): 2.0}  # a prompt quicker than a token
    several = {(1, 1, 10): 2.5, (1, 1, 20): 4.0}  # four blocks quicker than one
    step, block = step_and_block(one, several, 4, TWO)
    least = 3.0 * LEAST_SHARE
    assert step == pytest.approx(3.0 - least)
    assert block == pytest.approx(
        {(1, 1, 10): least, (1, 1, 20): 4.0 * LEAST_SHARE, (1, 20, 0): least}
    )
