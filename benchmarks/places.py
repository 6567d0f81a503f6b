"""Where the workers of `chaos.py` and `arrivals.py` run: processes of this one, or of agents."""

import subprocess
import sys
import time
from dataclasses import replace
from typing import Protocol

import psutil

from edgewise.clusters import Cluster, Device
from edgewise.errors import DeviceLost, DeviceTimeout
from edgewise.runtime.coordinator import Coordinator
from edgewise.runtime.live import start_live
from edgewise.runtime.local import start_local
from edgewise.runtime.workers import Workers

LATECOMER = "tablet"
JOIN_SECONDS = 60.0
AGENT = """
import sys
from edgewise.clusters import Device
from edgewise.runtime.launchers.agent import Agent
from edgewise.runtime.launchers.invitation import Invitation
address, token, name, memory = sys.argv[1:]
sys.stdin.readline()  # when to join
Agent(address, Invitation.parse(token), Device(name, int(memory), kind="any")).run()
"""


class Place(Protocol):
    """`workers` of a cluster. `join` has another device come, and says whether there is one;
    `let_in` takes in those that came or came back."""

    workers: Workers

    def process_id(self, device: str) -> int: ...
    def join(self) -> bool: ...
    def let_in(self, engine: Coordinator) -> None: ...
    def close(self) -> None: ...


class Local:
    """A cluster that nobody joins."""

    def __init__(self, cluster: Cluster) -> None:
        self.workers = start_local(cluster)

    def process_id(self, device: str) -> int:
        return self.workers.process_ids[device]

    def join(self) -> bool:
        return False

    def let_in(self, engine: Coordinator) -> None:
        pass

    def close(self) -> None:
        self.workers.close()


class Agents:
    """The source's worker is a process of this one, those of all others are their agents', of which
    one waits to join. A device whose worker was lost comes back."""

    def __init__(self, cluster: Cluster) -> None:
        source, *others = cluster.devices
        self.workers, self._launcher, self._invitation = start_live(source, "127.0.0.1", 0)
        late = replace(source, name=LATECOMER)
        self._agents = {device.name: self._agent(device) for device in (*others, late)}
        self._late = [LATECOMER]
        try:
            self._wait_for([device.name for device in others])
        except BaseException:
            self.close()
            raise

    def _agent(self, device: Device) -> "subprocess.Popen[bytes]":
        arguments = self._launcher.address, self._invitation.token, device.name
        return subprocess.Popen(
            [sys.executable, "-c", AGENT, *arguments, str(device.memory_bytes)],
            stdin=subprocess.PIPE,
        )

    def _wait_for(self, names: list[str]) -> None:
        for name in names:
            self._call(name)
        deadline = time.monotonic() + JOIN_SECONDS
        while len(self.workers.arrivals) < len(names):
            if time.monotonic() > deadline:
                raise DeviceTimeout(names[0], f"did not join within {JOIN_SECONDS:g} s")
            self.workers.receive(0.1)
        while self.workers.arrivals:
            self.workers.admit(self.workers.arrivals.popleft(), self._launcher)

    def _call(self, name: str) -> None:
        stdin = self._agents[name].stdin
        assert stdin is not None
        stdin.close()

    def process_id(self, device: str) -> int:
        if device == self.workers.cluster.source:
            return self.workers.process_ids[device]
        (worker,) = psutil.Process(self._agents[device].pid).children()
        return worker.pid

    def join(self) -> bool:
        if not self._late:
            return False
        self._call(self._late.pop())
        return True

    def let_in(self, engine: Coordinator) -> None:
        while self.workers.arrivals:
            try:
                self.workers.admit(self.workers.arrivals.popleft(), self._launcher)
            except (DeviceLost, DeviceTimeout) as lost:
                engine.go_on_without(lost)

    def close(self) -> None:
        self.workers.close()
        for agent in self._agents.values():
            agent.kill()
            agent.wait()
            if agent.stdin is not None:
                agent.stdin.close()
