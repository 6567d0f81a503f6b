"""One contract for all launchers: processes here, agents, and a Ray cluster of three nodes."""

import contextlib
import os
import random
import signal
import subprocess
import sys
import time
from concurrent.futures import Future, InvalidStateError

import psutil
import pytest

from edgewise.clusters import Device
from edgewise.errors import DeviceError, DeviceLost, DeviceTimeout
from edgewise.plans import Plan, Stage
from edgewise.profiling import read_memory
from edgewise.runtime.coordinator.coordinator import Coordinator
from edgewise.runtime.engine import Request
from edgewise.runtime.launchers.agent import GONE_SECONDS
from edgewise.runtime.messages import Joined
from edgewise.runtime.settings import Settings
from tests.runtime.conftest import file_of, plan_of, reference, streaming_plan
from tests.runtime.places import (
    DISK,
    KINDS,
    NODES,
    SECONDS,
    Place,
    RayCluster,
    is_running,
    until,
    worker_pids,
)
from tests.runtime.test_recovery import WORK, requests_of, run

LOOK_SECONDS = 1.0  # within which a launcher has seen what there is, and is told


@pytest.fixture(scope="module")
def ray_cluster():
    cluster = RayCluster()
    yield cluster
    cluster.close()
    assert not [x for x in psutil.Process().children(recursive=True) if "ray" in x.name()]


@pytest.fixture
def opened(request):
    """Opens places; no worker outlives them."""
    places = []

    def open_place(kind, names=NODES[:1]):
        if kind == "ray":
            request.getfixturevalue("ray_cluster")
        places.append(Place(kind, names))
        return places[-1]

    yield open_place
    for place in places:
        place.close()
    assert until(lambda: not worker_pids())


@pytest.fixture(params=KINDS)
def place(request, opened):
    return opened(request.param)


@pytest.fixture
def started(place):
    """A place and the number of its worker's process."""
    place.start("a")
    (pid,) = worker_pids()
    return place, pid


def test_a_worker_says_ready_and_answers(started):
    place, pid = started
    assert place.workers.round_trip("a") < SECONDS
    assert place.workers.is_remote("a") == (place.kind != "local")
    assert place.launcher.process_ids == ({"a": pid} if place.kind == "local" else {})


def test_a_killed_worker_is_reported(started):
    place, pid = started
    os.kill(pid, signal.SIGKILL)
    ended = place.next_ended()
    assert (ended.name, ended.how) == ("a", "was killed by SIGKILL")
    with pytest.raises(DeviceLost, match="device 'a' was killed by SIGKILL"):
        place.workers.receive(SECONDS)


def test_what_a_worker_said_last_is_reported(opened):
    place = opened("local")
    place.launcher.start(Settings(Device("a", 10**9), "nowhere", place.transport.peer))
    ended = place.next_ended()
    assert ended.how == "stopped with exit code 1"
    assert "'nowhere' is neither ipc://PATH nor tcp://HOST:PORT" in ended.last_line


@pytest.mark.timing
def test_a_worker_is_ended_at_once_and_started_again(started):
    """Even one that does nothing any more."""
    place, pid = started
    os.kill(pid, signal.SIGSTOP)
    began = time.monotonic()
    place.launcher.end("a")
    assert until(lambda: not is_running(pid))
    assert time.monotonic() - began < 2
    place.workers.restart("a")
    assert worker_pids() != {pid}
    assert place.workers.round_trip("a") < SECONDS
    assert place.next_ended(0.1) is None  # what was asked for is no news


def test_unknown_devices_are_nobody(place):
    place.launcher.end("nobody")
    if place.kind != "local":
        settings = Settings(Device("nobody", 1), "", place.transport.peer)
        with pytest.raises(DeviceError, match="device 'nobody' is not"):
            place.launcher.start(settings)


def test_closing_leaves_nothing(started):
    place, pid = started
    os.kill(pid, signal.SIGSTOP)
    place.launcher.close()
    assert until(lambda: not is_running(pid), GONE_SECONDS / 2)  # agents are told, not left alone
    place.launcher.close()
    place.close()
    place.close()
    assert place.next_ended(0.1) is None


@pytest.mark.parametrize("kind", ["agent", "ray"])
def test_a_device_is_offered_again_when_it_is_free(opened, monkeypatch, kind):
    """One whose worker was started again is not."""
    place = opened(kind)
    module = {"agent": "agents", "ray": "ray"}[kind]
    monkeypatch.setattr(f"edgewise.runtime.launchers.{module}.AGAIN_SECONDS", 0.1)
    place.start("a")
    place.workers.arrivals.clear()
    place.workers.restart("a")
    time.sleep(2 * LOOK_SECONDS)
    assert not place._arrived()
    place.workers.remove("a")
    assert until(lambda: "a" in place._arrived())
    assert isinstance(place.workers.arrivals[-1], Joined)


def test_a_key_that_comes_too_late_is_forgotten(opened, monkeypatch):
    place = opened("agent")
    with monkeypatch.context() as patience:
        patience.setattr("edgewise.runtime.coordinator.workers.START_SECONDS", 0.0)
        with pytest.raises(DeviceTimeout, match="was not started within 0 s"):
            place.start("a")
    assert until(lambda: worker_pids())  # whose key was sent before
    time.sleep(LOOK_SECONDS)
    place.workers.restart("a")
    assert place.workers.round_trip("a") < SECONDS


@pytest.mark.parametrize("kind", ["agent", "ray"])
def test_requests_go_on_while_a_worker_is_started(opened, checkpoint, prompt, monkeypatch, kind):
    """Tokens come before it has said its key: a Ray actor needs seconds for that. Here nobody is
    told the key before a token came, so whoever waited for it would wait in vain."""
    place, model = opened(kind, NODES), checkpoint("llama")
    place.start_source()
    place.start("a")
    _, plan = plan_of(model, ("a", 6))
    engine = Coordinator(place.workers, str(model), plan, WORK)
    request, start, said, came = Request(prompt, 40), place.launcher.start, [], []
    told = Future()
    engine.submit(request)
    engine.enter()

    def tell(key):
        if came and key.done():
            with contextlib.suppress(InvalidStateError):  # both threads may come here
                told.set_result(key.result())

    def take(envelope):
        came.extend((token.id, told.done()) for token in engine.take(envelope))
        tell(said[0])
        engine.enter()

    def begin(settings):
        said.append(start(settings))
        said[0].add_done_callback(tell)
        return told

    monkeypatch.setattr(place.launcher, "start", begin)
    with place.workers.meanwhile(take):
        place.start("b")
    came.extend((token.id, True) for tokens in iter(engine.step, []) for token in tokens)
    assert [token for token, _ in came] == reference(model, request)
    assert not came[0][1]
    assert place.workers.round_trip("b") < SECONDS


def test_a_loss_does_not_wait_for_a_newcomer(opened, checkpoint, prompt, monkeypatch):
    """Whose actor is being started then: it is offered again later."""
    monkeypatch.setattr("edgewise.runtime.launchers.ray.AGAIN_SECONDS", 0.1)
    place, model = opened("ray", NODES), checkpoint("llama")
    place.start_source()
    place.start("a")
    _, plan = plan_of(model, ("here", 3), ("a", 6))
    engine = Coordinator(place.workers, str(model), plan, WORK, replan=on_the_last)
    (victim,) = worker_pids() - set(place.workers.process_ids.values())
    start, keys = place.launcher.start, []

    def begin(settings):
        keys.append(start(settings))
        os.kill(victim, signal.SIGKILL)
        return keys[0]

    with monkeypatch.context() as watched:
        watched.setattr(place.launcher, "start", begin)
        with pytest.raises(DeviceLost, match="device 'a'") as lost:
            place.start("b")
        place.workers.arrivals.clear()
        engine.go_on_without(lost.value)
        assert not keys[0].done()
    assert place.workers.names == ("here",)
    request = Request(prompt, 12)
    assert run(engine, [request], lambda step: None) == [reference(model, request)]
    assert until(lambda: place._arrived() >= {"a", "b"})
    place.start("b")
    assert place.workers.round_trip("b") < SECONDS


def test_one_that_fails_to_start_is_reported(opened, monkeypatch):
    """By what was raised on its node; nobody else is the worse for it."""
    from edgewise.runtime.launchers import ray as launcher

    def fail(self, device, coordinator):
        raise OSError("no room for it")

    place = opened("ray", NODES)
    place.start("a")
    with monkeypatch.context() as broken:
        broken.setattr(launcher._Starter, "start", fail)
        with pytest.raises(DeviceLost, match="device 'b' started nothing: no room for it"):
            place.start("b")
    place.workers.remove("b")
    assert place.workers.round_trip("a") < SECONDS


@pytest.mark.parametrize("kind", ["agent", "ray"])
def test_a_worker_ends_with_the_process_that_started_it(opened, kind):
    """The agent's, or the Ray actor's: and the coordinator hears of it."""
    place = opened(kind)
    place.start("a")
    (pid,) = worker_pids()
    psutil.Process(pid).parent().kill()
    assert until(lambda: not is_running(pid))
    ended = place.next_ended()
    what = {"agent": "was silent", "ray": "lost the Ray actor"}[kind]
    assert ended.name == "a"
    assert ended.how.startswith(what)


@pytest.mark.parametrize("kind", ["local", "ray"])  # agents outlive coordinators
def test_a_worker_ends_with_whoever_wanted_it(request, kind):
    """The coordinator's process is killed."""
    address = request.getfixturevalue("ray_cluster").address if kind == "ray" else ""
    code = f"from tests.runtime.places import hold; hold({kind!r}, {address!r})"
    holder = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE)
    try:
        assert holder.stdout.readline() == b"started\n"
        (pid,) = worker_pids()
    finally:
        holder.kill()
        holder.wait()
        holder.stdout.close()
    assert until(lambda: not is_running(pid))


@pytest.fixture
def file_there(deep):
    """Of a layer on device 'a', made before it is read."""
    return file_of(deep, 8)


@pytest.fixture(params=KINDS)
def streaming(request, opened, deep, file_there):
    """The source and two devices, with most of their blocks on disk."""
    place = opened(request.param, NODES)
    place.start_source()
    for name in NODES:
        place.start(name)
    names = ("here", *NODES)
    return Coordinator(
        place.workers,
        deep,
        streaming_plan(deep, names),
        WORK,
        replan=lambda workers, plan: streaming_plan(deep, workers.names),
    )


def goes_on_from_disk(engine, model, disturb):
    """Answers are those from memory, without and with what costs a device before step 5."""
    requests = requests_of(random.Random("disks"))
    expected = [reference(model, request) for request in requests]
    assert run(engine, requests, lambda step: None) == expected
    assert run(engine, requests, lambda step: step == 5 and disturb()) == expected
    assert len(engine.plan.stages) == 2
    assert all(stage.streamed for stage in engine.plan.stages)


def test_layers_on_disk_survive_a_kill(streaming, deep):
    rates = {x.device: x.disk_bytes_per_second for x in read_memory(streaming.workers)}
    assert set(rates) == {"here", *NODES}
    assert min(rates.values()) > 1e6
    others = worker_pids() - {streaming.workers.process_ids["here"]}
    goes_on_from_disk(streaming, deep, lambda: os.kill(min(others), signal.SIGKILL))
    assert streaming.workers.names[0] == "here"


def test_a_device_without_its_disk_is_lost(streaming, deep, file_there):
    goes_on_from_disk(streaming, deep, lambda: os.truncate(file_there, 4096))
    assert streaming.workers.names == ("here", "b")


# Ray alone.


def test_nodes_are_devices(ray_cluster):
    from edgewise.runtime.launchers.ray import nodes

    assert sorted(nodes("a")) == ["b"]  # two may have one hostname
    there = nodes("here")
    assert sorted(there) == sorted(NODES)  # not the head: it is this process's own
    assert {node.device.threads for node in there.values()} == {1}
    memory = psutil.virtual_memory().total
    assert all(0 < node.device.memory_bytes < memory for node in there.values())
    assert {node.device.disk_bytes_per_second for node in there.values()} == {DISK}


def test_leaving_a_cluster_leaves_no_socket_open(ray_cluster):
    address = ray_cluster.address
    code = f"from tests.runtime.places import come_and_leave; come_and_leave({address!r})"
    command = [sys.executable, "-c", code]
    done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=5 * SECONDS)
    first, *others = map(int, done.stdout.split())
    assert others == [first] * 3


def test_nodes_come_and_go(ray_cluster, opened):
    place = opened("ray", NODES)
    node = ray_cluster.add("c")
    assert until(lambda: "c" in place._arrived())
    place.start("c")
    assert place.workers.round_trip("c") < SECONDS
    ray_cluster.remove(node)
    assert place.next_ended().name == "c"
    assert until(lambda: not worker_pids())


def on_the_last(workers, plan):
    """All layers on one device that is there."""
    stage = Stage(workers.names[-1], 0, plan.num_layers, plan.schemes)
    return Plan(plan.model, plan.digest, plan.num_layers, (stage,), plan.rounding)


def test_answers_over_nodes_and_without_one(opened, checkpoint, prompt):
    """Two nodes, that get their layers from this machine; then one of their workers dies."""
    place, model = opened("ray", NODES), checkpoint("llama")
    place.start_source()
    for name in NODES:
        place.start(name)
    _, plan = plan_of(model, ("a", 3), ("b", 6))
    engine = Coordinator(place.workers, str(model), plan, WORK, replan=on_the_last)
    requests = [Request(prompt, 12), Request(prompt[:5], 20)]
    expected = [reference(model, request) for request in requests]
    assert run(engine, requests, lambda step: None) == expected
    remote = sorted(worker_pids() - set(place.workers.process_ids.values()))

    def disturb(step):
        if step == 4:
            os.kill(remote[-1], signal.SIGKILL)

    assert run(engine, requests, disturb) == expected
    assert len(engine.plan.stages) == 1
    assert len(place.workers.names) == 2
