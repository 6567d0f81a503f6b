"""Devices with layers on disk: the tokens of those that have all in memory, whatever happens."""

import contextlib
import os
import random
import signal
from dataclasses import replace

import pytest
import transformers

from edgewise.clusters import Cluster
from edgewise.errors import DeviceLost, DeviceMemoryError, Infeasible, PlanError
from edgewise.memory import device_bytes
from edgewise.models.checkpoint import open_checkpoint
from edgewise.models.layer_files import layer_path
from edgewise.models.layer_store import LayerFiles
from edgewise.opening.engine import open_wanted
from edgewise.opening.wanted import Wanted
from edgewise.plans import Plan, Stage
from edgewise.profiling import read_memory
from edgewise.runtime.coordinator.coordinator import Coordinator
from edgewise.runtime.local import open_engine, start_local
from edgewise.specs import Workload
from tests.conftest import FAMILIES
from tests.runtime.conftest import NAMES, cluster, reference
from tests.runtime.places import NODES, Place
from tests.runtime.test_recovery import requests_of, run

WORK = Workload(prompt_tokens=20, new_tokens=30, sequences=4, micro_batches=2)
BLOCKS = 15
RATE = 5e8
REQUESTS = requests_of(random.Random("disks"))


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    """Of more blocks than buffers on each of three devices."""
    folder = tmp_path_factory.mktemp("deep")
    sizes = {**FAMILIES["llama"][1], "num_hidden_layers": BLOCKS}
    transformers.set_seed(0)
    transformers.LlamaForCausalLM(transformers.LlamaConfig(**sizes)).save_pretrained(folder)
    return str(folder)


@pytest.fixture(scope="module")
def expected(model):
    return [reference(model, request) for request in REQUESTS]


def with_disks(memory=10**9, names=NAMES):
    here = cluster(memory=memory, names=names)
    devices = tuple(replace(device, disk_bytes_per_second=RATE) for device in here.devices)
    return Cluster(devices, here.links, here.source)


def streaming_plan(model, names=NAMES):
    """The layers cut evenly, and of each device's blocks all but the first on disk."""
    spec, count = open_checkpoint(model).spec, BLOCKS + 2
    ends, stages = [round(count * (i + 1) / len(names)) for i in range(len(names))], []
    for name, start, end in zip(names, [0, *ends], ends, strict=False):
        blocks = range(max(start, 1), min(end, count - 1))
        stages.append(Stage(name, start, end, ("fp32",) * (end - start), tuple(blocks[1:])))
    return Plan(spec.name, spec.digest, count, tuple(stages))


@pytest.fixture
def opened(model):
    engines = []

    def start(replan=lambda workers, plan: streaming_plan(model, workers.names)):
        spec, plan = open_checkpoint(model).spec, streaming_plan(model)
        engines.append(open_engine(model, plan, with_disks(), WORK, spec=spec, replan=replan))
        return engines[-1]

    yield start
    for engine in engines:
        engine.close()


def file_of(model, layer):
    files = LayerFiles(open_checkpoint(model))
    return layer_path(files.folder, files.file(layer, "fp32").key)


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
def test_answers_go_on_without_a_disk(model, opened, expected, layer, left):
    """The source's worker is started again, and makes the file anew; others are left out."""
    engine = opened()

    def damage(step):
        if step == 5:
            os.truncate(file_of(model, layer), 4096)

    assert run(engine, REQUESTS, damage) == expected
    assert engine.workers.names == left


def test_without_another_plan_the_disk_is_named(model, opened):
    engine = opened(replan=None)
    os.truncate(path := file_of(model, 8), 4096)
    with pytest.raises(DeviceLost, match=f"device 'jetson' lost its disk: .*{path.name}.*"):
        run(engine, REQUESTS, lambda step: None)
    path.unlink()


def test_a_layer_moves_from_disk_to_memory_and_back(model, opened, expected):
    engine, plan = opened(), streaming_plan(model)
    in_memory = replace(plan, stages=tuple(replace(x, streamed=()) for x in plan.stages))
    for again in (in_memory, plan, streaming_plan(model, ("pi", "laptop", "jetson"))):
        engine.apply(again)
        assert run(engine, REQUESTS, lambda step: None) == expected


def test_a_plan_needs_a_disk(model):
    plan = streaming_plan(model)
    with pytest.raises(PlanError, match=r"layers on the disk of 'laptop'.*disk = \"500 MB/s\""):
        plan.check(open_checkpoint(model).spec, cluster())


def test_a_device_refuses_more_than_memory_holds(model):
    spec, plan = open_checkpoint(model).spec, streaming_plan(model)
    needed = max(device_bytes(spec, [stage], WORK) for stage in plan.stages)
    open_engine(model, plan, with_disks(needed), WORK, spec=spec).close()
    with pytest.raises(DeviceMemoryError):
        open_engine(model, plan, with_disks(needed - 1), WORK, spec=spec)


@pytest.mark.parametrize("names", [NAMES[:1], NAMES[:2]], ids=len)
def test_what_fits_nowhere_runs_from_disk(model, expected, names):
    """As `edgewise run` opens it, in one scheme: not without disks, and with them the same
    tokens."""
    spec, stages = open_checkpoint(model).spec, streaming_plan(model, names).stages
    memory = max(device_bytes(spec, [stage], WORK) for stage in stages) * 11 // 10
    wanted = Wanted(model, with_disks(memory, names), WORK, scheme="fp32")
    with pytest.raises(Infeasible):
        open_wanted(replace(wanted, cluster=wanted.cluster.without_disks()))
    engine = open_wanted(wanted)
    try:
        assert any(stage.streamed for stage in engine.plan.stages)
        assert run(engine, REQUESTS, lambda step: None) == expected
    finally:
        engine.close()


def test_a_device_that_joined_streams_what_it_is_sent(model, expected):
    """It has no copy of the model: its layers come as files, some of which stay on its disk."""
    plan = streaming_plan(model, ("here", NODES[0]))
    with contextlib.closing(Place("agent")) as place:
        place.start_source()
        place.start(NODES[0])
        engine = Coordinator(place.workers, model, plan, WORK)
        assert run(engine, REQUESTS, lambda step: None) == expected


def test_a_disk_is_measured_with_the_profile():
    with start_local(with_disks(names=NAMES[:1])) as workers:
        (reading,) = read_memory(workers)
    assert reading.disk_bytes_per_second > 1e6
    with start_local(cluster(names=NAMES[:1])) as workers:
        (reading,) = read_memory(workers)
    assert reading.disk_bytes_per_second == 0
