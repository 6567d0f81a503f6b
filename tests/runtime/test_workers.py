"""What the coordinator hears of its workers, and of those that it has removed. Workers are threads
here, which say what a test has them say over the real transport."""

import contextlib
import threading
import time
from concurrent.futures import Future

import pytest

from edgewise.clusters import Cluster, Device, Link
from edgewise.errors import DeviceLost, DeviceTimeout
from edgewise.runtime import messages
from edgewise.runtime.coordinator import loading
from edgewise.runtime.coordinator import workers as module
from edgewise.runtime.coordinator.adapters import Adapters
from edgewise.runtime.coordinator.loading import PlanLoader
from edgewise.runtime.coordinator.signs import SILENT_SECONDS
from edgewise.runtime.coordinator.workers import Workers
from edgewise.runtime.messages import COORDINATOR
from edgewise.runtime.settings import Settings
from edgewise.runtime.transport.emulation import Emulated
from edgewise.runtime.transport.zeromq import ZeroMQ
from tests.runtime.conftest import WORKLOAD, plan_of
from tests.runtime.places import SECONDS, until

LATE_SECONDS, BEAT_SECONDS = 0.3, 0.2
LAST = messages.Tokens(0, 0, (), ())


class Introducing(Emulated):
    known = frozenset()

    def introduce(self, peers):
        super().introduce(peers)
        self.known = frozenset(peers)


class Talking:
    """A coordinator, and the launcher of its workers; what "b" says is long under way."""

    def __init__(self, folder):
        self.process_ids = {}
        self.inbox = ZeroMQ(COORDINATOR, f"ipc://{folder}/coordinator")
        far = Link("b", "a", 1e9, LATE_SECONDS)
        self.transport = Introducing(self.inbox, {"b": far})
        self.workers = Workers(Cluster((Device("a", 1),), (), "a"), self.transport)
        self.said = {name: ZeroMQ(name, f"ipc://{folder}/{name}") for name in "abc"}
        self.says = dict.fromkeys("abc", messages.Beat(0.0))  # again and again, None: nothing
        self.over, self._threads = threading.Event(), []

    def bring_up(self, *names):
        for name in names:
            device, peer = Device(name, 1), self.said[name].peer
            if name != "a":
                self.workers.cluster = self.workers.cluster.joined_by(device)
            self.workers.start(self, [Settings(device, peer.address, self.transport.peer)])

    def start(self, settings):
        name, key = settings.device.name, Future()
        if name != "c":  # which never comes up
            self._threads.append(threading.Thread(target=self._live, args=(name,)))
            self._threads[-1].start()
        key.set_result("")
        return key

    def end(self, device):
        pass

    def close(self):
        self.over.set()
        for thread in self._threads:
            thread.join()
        for transport in (self.transport, *self.said.values()):
            transport.close()

    def _live(self, name):
        own = self.said[name]
        own.introduce({COORDINATOR: self.transport.peer})
        assert until(lambda: name in self.transport.known)  # before a process has started
        own.send(COORDINATOR, messages.Ready(own.peer))
        while not self.over.is_set():
            envelope = own.receive(BEAT_SECONDS)
            if envelope is not None and isinstance(envelope.message, messages.Peers):
                own.send(COORDINATOR, messages.Introduced())
            if self.says[name] is not None:
                own.send(COORDINATOR, self.says[name])

    def heard(self):
        """What comes within the time that anything is under way."""
        came = [self.workers.receive(LATE_SECONDS / 2) for _ in range(4)]
        return [envelope.message for envelope in came if envelope is not None]


@pytest.fixture
def talking(tmp_path):
    with contextlib.closing(Talking(tmp_path)) as made:
        yield made


def test_what_a_removed_device_said_last_does_not_bring_it_back(talking):
    talking.bring_up("a", "b")
    talking.says["b"] = None
    talking.said["b"].send(COORDINATOR, LAST)
    talking.said["b"].send(COORDINATOR, messages.Beat(0.0))
    waiting = talking.transport._due
    assert until(lambda: {LAST, messages.Beat(0.0)} <= {each.message for *_, each in [*waiting]})
    talking.workers.remove("b")
    assert talking.heard() == []
    assert list(talking.workers.signs.names) == ["a"]
    talking.workers.remove("b")


def test_who_blames_a_removed_device_is_late(talking):
    talking.bring_up("a", "b")
    talking.workers.remove("b")
    failed = messages.Failed(0, "DeviceTimeout", "device 'b' did not answer", "b", None)
    talking.said["a"].send(COORDINATOR, failed)
    talking.said["a"].send(COORDINATOR, LAST)
    assert talking.heard() == [LAST]


def test_nothing_is_taken_of_a_removed_device_while_another_starts(talking, monkeypatch):
    talking.bring_up("a", "b")
    talking.says["b"] = None
    monkeypatch.setattr(module, "START_SECONDS", 0.0)
    for act in (lambda: talking.bring_up("c"), lambda: talking.workers.remove("b")):
        with pytest.raises(DeviceTimeout, match="device 'c' was not ready"):
            act()
    assert until(lambda: _unknown(talking))


def _unknown(talking):
    talking.said["b"].send(COORDINATOR, LAST)
    return talking.inbox.dropped.get("unknown sender")


@pytest.mark.parametrize("awake", [False, True], ids=["beats", "beats and wakes"])
def test_a_silent_device_is_noticed_though_others_speak(talking, awake):
    """In one call that waits for long, and in many that always have something to return."""
    talking.bring_up("a", "b")
    talking.says["b"] = None
    began = time.monotonic()
    with pytest.raises(DeviceLost, match=r"device 'b' was silent for 3 s"):
        while time.monotonic() < began + SECONDS:
            if awake:
                talking.workers.wake()
            assert talking.workers.receive(0.5 if awake else SECONDS)
            time.sleep(BEAT_SECONDS / 10)
    assert SILENT_SECONDS < time.monotonic() - began < SECONDS


def test_who_loads_nothing_is_not_waited_for_because_of_others(talking, monkeypatch):
    monkeypatch.setattr(loading, "LOAD_SECONDS", SILENT_SECONDS)
    talking.bring_up("a", "b")
    talking.says["a"] = messages.LayerLoaded(0, 0)
    _, plan = plan_of("demo", ("a", 3), ("b", 14))
    loader, loaded = PlanLoader(talking.workers, "demo", Adapters(talking.workers)), []

    def note(layer):
        loaded.append(layer)
        assert len(loaded) < 20 * SILENT_SECONDS / BEAT_SECONDS

    with pytest.raises(DeviceTimeout, match="device 'b' loaded nothing for 3 s"):
        loader.load(plan, WORKLOAD, note)
    assert loaded
