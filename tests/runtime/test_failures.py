"""Devices that die, hang or fail: the error names the device, at once, and nothing is left."""

import errno
import os
import signal
import subprocess
import sys
import time

import psutil
import pytest
import torch

from edgewise import errors
from edgewise.clusters import Cluster, Device, Link
from edgewise.errors import DeviceError, DeviceLost, DeviceMemoryError, DeviceTimeout, ModelError
from edgewise.models.checkpoint import open_checkpoint
from edgewise.models.shape import ModelShape
from edgewise.runtime import messages
from edgewise.runtime.coordinator.coordinator import Coordinator
from edgewise.runtime.coordinator.failures import error_of
from edgewise.runtime.coordinator.signs import SILENT_SECONDS
from edgewise.runtime.engine import Request, stream
from edgewise.runtime.local import open_engine, start_local
from edgewise.runtime.transport.zeromq import ZeroMQ
from edgewise.runtime.trial_messages import Prepare, Prepared, Time, Timed
from edgewise.runtime.worker import trial
from edgewise.runtime.worker.inbox import Inbox
from edgewise.runtime.worker.trial import PROBE_SECONDS
from edgewise.runtime.worker.worker import _failure
from tests.runtime.conftest import WORKLOAD, cluster, plan_of
from tests.seeds import THOROUGH, cases

STAGES = [("laptop", 2), ("jetson", 4), ("pi", 6)]


@pytest.fixture
def engine(checkpoint):
    spec, plan = plan_of(checkpoint("llama"), *STAGES)
    engine = open_engine(
        str(checkpoint("llama")), plan, cluster(latency=0.005), WORKLOAD, spec=spec
    )
    pids = list(engine.workers.process_ids.values())
    yield engine
    engine.close()
    assert not any(psutil.pid_exists(pid) for pid in pids)


@pytest.mark.timing
@pytest.mark.parametrize("device", ["laptop", "jetson", "pi"])
def test_a_killed_worker_is_noticed_and_named(engine, prompt, device):
    tokens = stream(engine, Request(prompt, 30))
    next(tokens)
    os.kill(engine.workers.process_ids[device], signal.SIGKILL)
    began = time.monotonic()
    with pytest.raises(DeviceLost) as error:
        list(tokens)
    assert time.monotonic() - began < 2
    layers = {"laptop": "0-1", "jetson": "2-3", "pi": "4-5"}[device]
    assert str(error.value) == (
        f"device '{device}' was killed by SIGKILL while it held layers {layers}"
    )
    assert error.value.device == device


def test_a_worker_that_hangs_is_named(engine, prompt):
    pid = engine.workers.process_ids["jetson"]
    os.kill(pid, signal.SIGSTOP)
    try:
        with pytest.raises(DeviceLost) as error:
            list(stream(engine, Request(prompt, 30)))
    finally:
        os.kill(pid, signal.SIGCONT)
    assert str(error.value) == "device 'jetson' was silent for 3 s while it held layers 2-3"


def test_a_worker_that_computes_for_long_is_not_lost(real_model):
    """Several times as long as the silence that would be its loss; 30 s if need be."""
    wanted = 30.0 if THOROUGH else 2.5 * SILENT_SECONDS
    shape = ModelShape.of(open_checkpoint(real_model)).to_json()
    with start_local(Cluster.of_this_machine(8 * 10**9, 1)) as workers:
        (name,) = workers.names
        layers = Prepare(shape, 1, 31, "fp32", 1, 8192)
        workers.call(name, layers, Prepared, 60)

        def seconds(tokens):
            return workers.call(name, Time(1, tokens, 0), Timed, 600).seconds

        tokens = 128
        while (took := seconds(tokens)) < 0.8 * wanted:  # at least: attention
            assert tokens < 8192
            tokens = min(round(tokens * max(wanted / took, 2)), 8192)
        assert workers.signs.silent() == ""
        assert workers.round_trip(name) < 5


@pytest.mark.timing
def test_a_worker_that_hangs_does_not_outlive_close(checkpoint):
    spec, plan = plan_of(checkpoint("llama"), *STAGES)
    engine = open_engine(str(checkpoint("llama")), plan, cluster(), WORKLOAD, spec=spec)
    pid = engine.workers.process_ids["pi"]
    os.kill(pid, signal.SIGSTOP)
    began = time.monotonic()
    engine.close()
    assert time.monotonic() - began < 4
    assert not psutil.pid_exists(pid)


def test_what_a_worker_raises_is_raised_here(checkpoint, tmp_path):
    _, plan = plan_of(checkpoint("llama"), *STAGES)
    with start_local(cluster()) as devices:
        broken = tmp_path / "model"
        broken.mkdir()
        (broken / "config.json").write_bytes((checkpoint("llama") / "config.json").read_bytes())
        (broken / "model.safetensors").write_bytes(b"\x10\0\0\0\0\0\0\0not a header")
        with pytest.raises(ModelError, match="corrupt or truncated safetensors file"):
            Coordinator(devices, str(broken), plan, WORKLOAD)


def test_an_unforeseen_error_in_a_worker_comes_with_its_trace():
    with start_local(cluster(names=("solo",))) as devices:
        devices.send("solo", Time(1, 1, 0))  # nothing was prepared
        with pytest.raises(DeviceError, match=r"(?s)device 'solo' failed: Assertion.*Traceback"):
            devices.receive(5)


def test_a_worker_whose_memory_is_full_says_so(real_model):
    shape = ModelShape.of(open_checkpoint(real_model)).to_json()
    with start_local(cluster(names=("solo",))) as devices:
        devices.send("solo", Prepare(shape, 1, 2, "fp32", 1, 2**42))
        with pytest.raises(DeviceMemoryError, match=r"'solo' ran out of memory: .*alloc"):
            devices.receive(60)


@pytest.mark.parametrize(
    ("error", "kind"),
    [
        (torch.AcceleratorError("CUDA error: an illegal memory access"), "DeviceLost"),
        (RuntimeError("CUDA error: unspecified launch failure\nCompile with"), "DeviceLost"),
        (RuntimeError("Assertion failed: device-side assert triggered"), "DeviceLost"),
        (torch.OutOfMemoryError("CUDA out of memory. Tried to allocate"), "DeviceMemoryError"),
        (MemoryError(), "DeviceMemoryError"),
        (OSError(errno.ENOMEM, "Cannot allocate memory"), "DeviceMemoryError"),
        (RuntimeError("shapes do not match"), ""),
    ],
)
def test_what_befalls_a_processor_is_told_from_a_fault_of_ours(error, kind):
    failed = _failure(error, "solo", 0, 7)
    assert (failed.error, failed.device, failed.step) == (kind, "solo", 7)
    assert isinstance(error_of(failed), getattr(errors, kind or "DeviceError"))


def test_what_the_allocator_raises_is_full_memory():
    with pytest.raises(RuntimeError) as error:
        torch.empty(2**60, dtype=torch.uint8)
    assert _failure(error.value, "solo", 0, None).error == "DeviceMemoryError"


def test_a_device_that_dies_in_a_probe_is_blamed_and_no_other_waits():
    """Who probed it is told of another plan meanwhile, and answers at once."""
    links = [Link(x, y, 1e9, 0.5) for x in "abc" for y in "abc" if x != y]
    devices = tuple(Device(name, 10**9) for name in "abc")
    with start_local(Cluster(devices, tuple(links), "a")) as workers:
        workers.send("b", messages.Probe("c", 0))
        os.kill(workers.process_ids["c"], signal.SIGKILL)
        with pytest.raises(DeviceLost, match="device 'c' was killed"):
            workers.receive(60)
        began = time.monotonic()
        workers.remove("c")
        workers.call("b", messages.Ping(), messages.Pong, 60)
        assert time.monotonic() - began < PROBE_SECONDS / 2


def test_a_device_that_does_not_answer_a_probe_is_blamed(tmp_path, monkeypatch):
    """Whatever else comes is seen to afterwards, but what others probe with at once."""
    monkeypatch.setattr(trial, "PROBE_SECONDS", 1.0)
    names = ("", "b", "c")
    ends = {name: ZeroMQ(name, f"ipc://{tmp_path}/{name or 'to'}") for name in names}
    for each in ends.values():
        each.introduce({name: end.peer for name, end in ends.items()})
    inbox = Inbox(Device("b", 1), ends["b"], lambda envelope: None)
    ends[""].send("b", messages.Describe())
    ends[""].send("b", messages.Echo())
    with pytest.raises(DeviceTimeout, match="device 'c' did not answer within"):
        trial.round_trip_seconds(ends["b"], inbox, messages.Probe("c", 0))
    assert isinstance(ends[""].receive(0).message, messages.Echoed)
    assert [each.message for each in inbox.kept] == [messages.Describe()]
    assert inbox.waited() == (0.0, 0.0)
    for each in ends.values():
        each.close()


CRASH = """
import sys, time
from edgewise.runtime.local import open_engine, start_local
from edgewise.clusters import Cluster, Device, Link
if __name__ == "__main__":
    devices = start_local(Cluster((Device("a", 10**9), Device("b", 10**9)), (), "a"))
    print(*devices.process_ids.values(), flush=True)
    time.sleep(60)
"""


def test_a_worker_ends_with_its_coordinator_in_the_middle_of_a_probe():
    script = """
from edgewise.clusters import Cluster, Device, Link
from edgewise.runtime import messages
from edgewise.runtime.local import open_engine, start_local
links = (Link("a", "b", latency_seconds=3.0), Link("b", "a", latency_seconds=3.0))
devices = start_local(Cluster((Device("a", 10**9), Device("b", 10**9)), links, "a"))
print(*devices.process_ids.values(), flush=True)
devices.call("a", messages.Probe("b", 0), messages.Probed, 60)
"""
    with subprocess.Popen(
        [sys.executable, "-c", script], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
    ) as parent:
        pids = [int(pid) for pid in parent.stdout.readline().split()]
        time.sleep(0.5)
        parent.kill()
    assert ended(pids)


def ended(pids):
    deadline = time.monotonic() + 5
    while any(psutil.pid_exists(pid) for pid in pids) and time.monotonic() < deadline:
        time.sleep(0.05)
    return not any(psutil.pid_exists(pid) for pid in pids)


@pytest.mark.parametrize(
    "sent", cases([signal.SIGKILL], [signal.SIGKILL, signal.SIGTERM, signal.SIGINT])
)
def test_workers_end_with_their_coordinator_however_it_ends(sent):
    with subprocess.Popen(
        [sys.executable, "-c", CRASH], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
    ) as parent:
        pids = [int(pid) for pid in parent.stdout.readline().split()]
        assert len(pids) == 2
        parent.send_signal(sent)
        parent.wait(10)
    assert ended(pids)
