"""Devices with layers on disk: the tokens of those that have all in memory, whatever happens."""

import os
import random
import signal
from dataclasses import replace

import pytest

from edgewise.clusters import Cluster
from edgewise.errors import DeviceLost, DeviceMemoryError, Infeasible, PlanError
from edgewise.memory import device_bytes
from edgewise.models.checkpoint import open_checkpoint
from edgewise.opening.engine import open_wanted
from edgewise.opening.wanted import Wanted
from edgewise.profiling import read_memory
from edgewise.runtime.local import open_engine, start_local
from edgewise.specs import Workload
from tests.runtime.conftest import NAMES, cluster, file_of, reference, streaming_plan
from tests.runtime.test_recovery import requests_of, run

WORK = Workload(prompt_tokens=20, new_tokens=30, sequences=4, micro_batches=2)
RATE = 5e8
REQUESTS = requests_of(random.Random("disks"))


@pytest.fixture(scope="module")
def expected(deep):
    return [reference(deep, request) for request in REQUESTS]


def with_disks(memory=10**9, names=NAMES):
    here = cluster(memory=memory, names=names)
    devices = tuple(replace(device, disk_bytes_per_second=RATE) for device in here.devices)
    return Cluster(devices, here.links, here.source)


@pytest.fixture
def opened(deep):
    engines = []

    def start(replan=lambda workers, plan: streaming_plan(deep, workers.names)):
        spec, plan = open_checkpoint(deep).spec, streaming_plan(deep)
        engines.append(open_engine(deep, plan, with_disks(), WORK, spec=spec, replan=replan))
        return engines[-1]

    yield start
    for engine in engines:
        engine.close()


def test_three_devices_answer_as_one(opened, expected):
    assert run(opened(), REQUESTS, lambda step: None) == expected


@pytest.mark.parametrize("victim", NAMES)
def test_a_device_is_killed_while_it_streams(opened, expected, victim):
    engine = opened()

    def kill(step):
        if step == 5:
            os.kill(engine.workers.process_ids[victim], signal.SIGKILL)

    assert run(engine, REQUESTS, kill) == expected
    assert all(stage.streamed for stage in engine.plan.stages)


@pytest.mark.parametrize(("layer", "left"), [(4, NAMES), (8, ("laptop", "pi"))])
def test_answers_go_on_without_a_disk(deep, opened, expected, layer, left):
    """The source's worker is started again, and makes the file anew; others are left out."""
    engine = opened()

    def damage(step):
        if step == 5:
            os.truncate(file_of(deep, layer), 4096)

    assert run(engine, REQUESTS, damage) == expected
    assert engine.workers.names == left


def test_without_another_plan_the_disk_is_named(deep, opened):
    engine = opened(replan=None)
    os.truncate(path := file_of(deep, 8), 4096)
    with pytest.raises(DeviceLost, match=f"device 'jetson' cannot use its disk: .*{path.name}.*"):
        run(engine, REQUESTS, lambda step: None)
    path.unlink()


def test_a_layer_moves_from_disk_to_memory_and_back(deep, opened, expected):
    engine, plan = opened(), streaming_plan(deep)
    in_memory = replace(plan, stages=tuple(replace(x, streamed=()) for x in plan.stages))
    for again in (in_memory, plan, streaming_plan(deep, ("pi", "laptop", "jetson"))):
        engine.apply(again)
        assert run(engine, REQUESTS, lambda step: None) == expected


def test_a_plan_needs_a_disk(deep):
    plan = streaming_plan(deep)
    with pytest.raises(PlanError, match=r"layers on the disk of 'laptop'.*disk = \"500 MB/s\""):
        plan.check(open_checkpoint(deep).spec, cluster())


def test_a_device_refuses_more_than_memory_holds(deep):
    spec, plan = open_checkpoint(deep).spec, streaming_plan(deep)
    needed = max(device_bytes(spec, [stage], WORK) for stage in plan.stages)
    open_engine(deep, plan, with_disks(needed), WORK, spec=spec).close()
    with pytest.raises(DeviceMemoryError):
        open_engine(deep, plan, with_disks(needed - 1), WORK, spec=spec)


@pytest.mark.parametrize("names", [NAMES[:1], NAMES[:2]], ids=len)
def test_what_fits_nowhere_runs_from_disk(deep, expected, names):
    """As `edgewise run` opens it, in one scheme: not without disks, and with them the same
    tokens."""
    spec, stages = open_checkpoint(deep).spec, streaming_plan(deep, names).stages
    memory = max(device_bytes(spec, [stage], WORK) for stage in stages) * 11 // 10
    wanted = Wanted(deep, with_disks(memory, names), WORK, scheme="fp32")
    with pytest.raises(Infeasible):
        open_wanted(replace(wanted, cluster=wanted.cluster.without_disks()))
    engine = open_wanted(wanted)
    try:
        assert any(stage.streamed for stage in engine.plan.stages)
        assert run(engine, REQUESTS, lambda step: None) == expected
    finally:
        engine.close()


def test_a_disk_is_measured_with_the_profile():
    with start_local(with_disks(names=NAMES[:1])) as workers:
        (reading,) = read_memory(workers)
    assert reading.disk_bytes_per_second > 1e6
    with start_local(cluster(names=NAMES[:1])) as workers:
        (reading,) = read_memory(workers)
    assert reading.disk_bytes_per_second == 0
