"""Planners with disks: the same plans where memory does, and else plans that fit, priced as they
are read."""

import math
from dataclasses import replace
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgewise.clusters import Cluster
from edgewise.errors import Infeasible
from edgewise.memory import device_bytes
from edgewise.planning import PLANNERS, Problem
from edgewise.planning.spilling import spilled
from edgewise.plans import Plan, Stage
from edgewise.profiles import Profile
from edgewise.schemes import get_scheme
from edgewise.simulation import Arrival, simulate_plan
from edgewise.specs import LayerKind
from edgewise.streaming import overlapped_seconds, spread
from tests.planning.problems import random_problem
from tests.seeds import seeds

NAMES = ("solo", "memory", "edgeshard", "joint")
BLOCKS = 14
RATE = 3e6


def deep(problem, share, rate=RATE):
    """A problem with more blocks, on devices of so much of the memory that all would take, with
    disks."""
    costs = problem.costs
    first, block, *_, last = costs.model.layers
    block = replace(block, matrices=((400, 400), (400, 400)))  # large beside what files say of it
    model = replace(costs.model, layers=(first, *[block] * BLOCKS, last))
    whole = Stage("", 0, BLOCKS + 2, ("fp32",) * (BLOCKS + 2))
    memory = int(device_bytes(model, [whole], costs.workload) * share)
    here = costs.cluster
    devices = tuple(
        replace(x, memory_bytes=memory, disk_bytes_per_second=rate) for x in here.devices
    )
    here = Cluster(devices, here.links, here.source, here.networks)
    profile = costs.profile
    renamed = {costs.model.classes[1]: model.classes[1]}
    timings = tuple(
        replace(x, layer=renamed.get(x.layer, x.layer))
        for x in profile.layers
        if x.layer in {costs.model.classes[i] for i in (0, 1, -1)}
    )
    profile = Profile(model.digest, timings, profile.devices, profile.links)
    return Problem(replace(costs, model=model, cluster=here, profile=profile))


def without_disks(problem):
    costs = replace(problem.costs, cluster=problem.costs.cluster.without_disks())
    return replace(problem, costs=costs, pins=problem.pins)


def outcome(name, problem):
    try:
        return PLANNERS[name](problem)
    except Infeasible as error:
        return error


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("share", [1.2, 0.6, 0.3])
@pytest.mark.parametrize("seed", seeds(3, 12))
def test_disks_are_for_what_fits_nowhere(seed, share, name):
    problem = deep(random_problem(seed, all_linked=True), share)
    plain, found = outcome(name, without_disks(problem)), outcome(name, problem)
    if not isinstance(plain, Infeasible):
        assert (found.plan, found.status) == (plain.plan, plain.status)
        return
    assert not isinstance(found, Infeasible), found
    costs, estimate = problem.costs, found.estimate
    costs.check_memory(found.plan)
    assert any(stage.streamed for stage in found.plan.stages)
    assert "layers are on disk" in found.explanation
    reads = dict.fromkeys(found.plan.devices, 0.0)
    for stage in found.plan.stages:
        for layer in stage.streamed:
            assert costs.model.layers[layer].kind is LayerKind.BLOCK
            reads[stage.device] += costs.model.layers[layer].weight_bytes(get_scheme("fp32")) / RATE
    assert estimate.decode_seconds >= max(reads.values()) * (1 - 1e-9)
    assert estimate.bottleneck_seconds >= max(reads.values()) * (1 - 1e-9)


@pytest.mark.parametrize("share", [0.3, 0.2])
@pytest.mark.parametrize("seed", seeds(3, 12))
def test_the_joint_planner_is_as_good_as_any(seed, share):
    problem = deep(random_problem(seed, all_linked=True), share)
    found = [outcome(name, problem) for name in (*NAMES, "even", "speed", "cloud-edge-opt")]
    scores = [math.inf if isinstance(x, Infeasible) else problem.score(x.estimate) for x in found]
    assert scores[NAMES.index("joint")] <= min(scores) * 1.01


@pytest.mark.parametrize("share", [0.25, 0.4, 0.55, 0.8, 0.99])
def test_no_more_is_on_disk_than_must_be(share):
    costs = deep(random_problem(1, all_linked=True), share).costs
    model, name = costs.model, costs.cluster.source
    stage = Stage(name, 0, BLOCKS + 2, ("fp32",) * (BLOCKS + 2))
    plan = Plan(model.name, model.digest, BLOCKS + 2, (stage,))
    (fitting,) = spilled(costs, plan).stages
    limit, count = costs.memory_limit(name), len(fitting.streamed)
    assert device_bytes(model, [fitting], costs.workload) <= limit
    less = replace(fitting, streamed=spread(range(1, BLOCKS + 1), max(count - 2, 0)))
    assert count % 2 == 0
    assert device_bytes(model, [less], costs.workload) > limit


def test_too_little_memory_for_what_cannot_be_on_disk():
    problem = deep(random_problem(1, all_linked=True), 0.01)
    with pytest.raises(Infeasible, match="nor with layers on disk: "):
        PLANNERS["solo"](problem)


def test_a_step_by_hand():
    """Two are in the buffers; a third is read when the first has computed, and so on."""
    assert overlapped_seconds([1.0] * 4, [3.0] * 4) == 8.0  # 1, 2; read 1-4, computed 5; 4-7, 8
    assert overlapped_seconds([2.0] * 4, [1.0] * 4) == 8.0  # computing is all
    assert overlapped_seconds([1.0] * 6, [0.0, 2.0] * 3) == 6.0  # read 2-4, in time for it at 5
    assert overlapped_seconds([1.0] * 5, [0.0] * 5) == 5.0
    assert overlapped_seconds([1.0] * 2, [9.0] * 2) == 2.0


@given(st.lists(st.tuples(st.floats(0.1, 5), st.floats(0, 5)), max_size=12))
def test_a_step_is_no_shorter_than_either_and_no_longer_than_both(layers):
    computing, reading = [x for x, _ in layers], [x for _, x in layers]
    read = math.fsum([x for x in reading if x][2:])
    seconds, computed = overlapped_seconds(computing, reading), math.fsum(computing)
    assert max(computed, read) - 1e-9 <= seconds <= computed + read + 1e-9


@given(st.integers(1, 40), st.data())
def test_layers_in_memory_lie_evenly_between_those_on_disk(count, data):
    blocks = range(1, count + 1)
    chosen = spread(blocks, data.draw(st.integers(1, count)))
    assert sorted(set(chosen)) == list(chosen) and set(chosen) <= set(blocks)
    gaps = [b - a for a, b in pairwise(chosen)]
    assert not gaps or max(gaps) - min(gaps) <= 1


@pytest.mark.parametrize("name", NAMES)
def test_one_lane_takes_what_is_estimated(name):
    """The simulator's disks, one thing at a time, are what the estimate says."""
    problem = deep(random_problem(2, all_linked=True), 0.3)
    work = replace(problem.costs.workload, sequences=1, micro_batches=1)
    costs = replace(problem.costs, workload=work)
    found = PLANNERS[name](replace(problem, costs=costs, pins=problem.pins))
    asked = [Arrival(0.0, work.prompt_tokens, work.new_tokens)]
    times = simulate_plan(costs, found.plan, asked).requests[0].token_seconds
    estimate = found.estimate
    assert times[0] == pytest.approx(estimate.prefill_seconds)
    for a, b in pairwise(times[1:]):
        assert b - a == pytest.approx(estimate.decode_seconds)
