"""Where the workers of `chaos.py` and `arrivals.py` run: processes of this one, of agents, or of
the nodes of a Ray cluster."""

import contextlib
import os
import secrets
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import replace
from functools import cache
from typing import Any, Protocol

import psutil

from edgewise.clusters import Cluster, Device
from edgewise.errors import DeviceLost, DeviceTimeout
from edgewise.hosting.swaps import GoOn, beside_requests
from edgewise.runtime.coordinator.coordinator import Coordinator
from edgewise.runtime.coordinator.workers import Workers
from edgewise.runtime.launchers import Launcher
from edgewise.runtime.live import start_live, start_on_ray
from edgewise.runtime.local import start_local
from edgewise.runtime.messages import Joined

LATECOMER = "tablet"
RAY_NODES = ("jetson", "pi", "phone", LATECOMER)
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
    `let_in` takes in those that came or came back, while requests `go_on`. A device whose worker
    is just ending, or beginning, has no process."""

    workers: Workers

    def process_id(self, device: str) -> int | None: ...
    def join(self) -> bool: ...
    def let_in(self, engine: Coordinator, go_on: GoOn) -> None: ...
    def close(self) -> None: ...


class Local:
    """A cluster to which only those come that were lost."""

    def __init__(self, cluster: Cluster) -> None:
        self.workers, self._whole = start_local(cluster), cluster
        # Of all devices: the workers forget those that are lost.
        self._launchers, self._settings = dict(self.workers.launchers), dict(self.workers.settings)

    def process_id(self, device: str) -> int | None:
        return self.workers.process_ids[device]

    def join(self) -> bool:
        lost = [x for x in self._whole.devices if x.name not in self.workers.names]
        self.workers.arrivals.extend(Joined(device, "") for device in lost[:1])
        return bool(lost)

    def let_in(self, engine: Coordinator, go_on: GoOn) -> None:
        while self.workers.arrivals:
            device = self.workers.arrivals.popleft().device
            if device.name in self.workers.names:
                continue
            self.workers.cluster = self.workers.cluster.joined_by(device)
            try:
                with beside_requests(self.workers, go_on):
                    self.workers.start(self._launchers[device.name], [self._settings[device.name]])
            except (DeviceLost, DeviceTimeout) as lost:
                engine.go_on_without(lost)

    def close(self) -> None:
        self.workers.close()


class Live:
    """Devices that join and come back: all but the source, whose worker is a process of this one.
    The last one waits to be told."""

    workers: Workers
    launcher: Launcher

    def __init__(self, cluster: Cluster) -> None:
        late = replace(cluster.devices[0], name=LATECOMER)
        self._devices = {device.name: device for device in (*cluster.devices[1:], late)}

    def wait_for(self, names: Sequence[str]) -> list[Joined]:
        """Until these are there."""
        deadline, there = time.monotonic() + JOIN_SECONDS, dict[str, Joined]()
        while missing := [name for name in names if name not in there]:
            if time.monotonic() > deadline:
                raise DeviceTimeout(missing[0], f"did not join within {JOIN_SECONDS:g} s")
            self.workers.receive(0.1)
            while self.workers.arrivals:
                joined = self.workers.arrivals.popleft()
                there[joined.device.name] = joined
        return [there[name] for name in names]

    def admit(self, joined: Joined) -> None:
        """With the memory that the cluster gives it."""
        device = self._devices[joined.device.name]
        self.workers.admit(Joined(device, joined.host), self.launcher)

    def let_in(self, engine: Coordinator, go_on: GoOn) -> None:
        while self.workers.arrivals:
            try:
                with beside_requests(self.workers, go_on):
                    self.admit(self.workers.arrivals.popleft())
            except (DeviceLost, DeviceTimeout) as lost:
                engine.go_on_without(lost)


class Agents(Live):
    """Workers of agents, one of which joins when it is told."""

    def __init__(self, cluster: Cluster) -> None:
        super().__init__(cluster)
        self.workers, agents, invitation = start_live(cluster.devices[0], "127.0.0.1", 0)
        self.launcher, self._late = agents, [LATECOMER]
        self._agents = {
            name: self._agent(device, agents.address, invitation.token)
            for name, device in self._devices.items()
        }
        try:
            names = [device.name for device in cluster.devices[1:]]
            for name in names:
                self._call(name)
            for joined in self.wait_for(names):
                self.admit(joined)
        except BaseException:
            self.close()
            raise

    def _agent(self, device: Device, *arguments: str) -> "subprocess.Popen[bytes]":
        memory = str(device.memory_bytes)
        return subprocess.Popen(
            [sys.executable, "-c", AGENT, *arguments, device.name, memory], stdin=subprocess.PIPE
        )

    def _call(self, name: str) -> None:
        stdin = self._agents[name].stdin
        assert stdin is not None
        stdin.close()

    def process_id(self, device: str) -> int | None:
        if device == self.workers.cluster.source:
            return self.workers.process_ids[device]
        return _only(psutil.Process(self._agents[device].pid).children())

    def join(self) -> bool:
        if not self._late:
            return False
        self._call(self._late.pop())
        return True

    def close(self) -> None:
        self.workers.close()
        for agent in self._agents.values():
            agent.kill()
            agent.wait()
            if agent.stdin is not None:
                agent.stdin.close()


class RayNodes(Live):
    """Workers of the nodes of a Ray cluster, of which those that the cluster lacks are not let
    in, and one not before it is told to join."""

    def __init__(self, cluster: Cluster) -> None:
        super().__init__(cluster)
        self._nodes = ray_nodes()
        self.workers, self.launcher, _ = start_on_ray(cluster.devices[0], "127.0.0.1")
        try:
            *there, late = self.wait_for(list(self._devices))
            for joined in there:
                self.admit(joined)
            self._late = [late]
        except BaseException:
            self.close()
            raise

    def process_id(self, device: str) -> int | None:
        if device == self.workers.cluster.source:
            return self.workers.process_ids[device]
        children = self._nodes[device].children(recursive=True)
        return _only([x for x in children if _is_worker(x)])

    def join(self) -> bool:
        self.workers.arrivals.extend(self._late)
        joined, self._late = bool(self._late), []
        return joined

    def let_in(self, engine: Coordinator, go_on: GoOn) -> None:
        wanted = [x for x in self.workers.arrivals if x.device.name in self._devices]
        self.workers.arrivals.clear()
        self.workers.arrivals.extend(wanted)
        super().let_in(engine, go_on)

    def close(self) -> None:
        self.workers.close()


def _only(workers: Sequence[psutil.Process]) -> int | None:
    return workers[0].pid if len(workers) == 1 else None


@cache
def ray_nodes() -> dict[str, psutil.Process]:
    """The nodes of a Ray cluster on this machine, which asks for a token, by name; it ends with
    this process, whose own node is the head."""
    token = {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": secrets.token_hex(32)}
    os.environ.update(token | {"RAY_USAGE_STATS_ENABLED": "0"})
    from ray.cluster_utils import Cluster as Nodes

    few: dict[str, Any] = {"object_store_memory": 80 * 2**20, "include_dashboard": False}
    there = Nodes(initialize_head=True, head_node_args={"num_cpus": 0, "node_name": "head", **few})
    os.environ["RAY_ADDRESS"] = there.address
    raylets = {}
    for name in RAY_NODES:
        node = there.add_node(node_name=name, num_cpus=1, object_store_memory=80 * 2**20)
        raylets[name] = psutil.Process(node.all_processes["raylet"][0].process.pid)
    return raylets


def _is_worker(process: psutil.Process) -> bool:
    with contextlib.suppress(psutil.NoSuchProcess):
        return "edgewise.runtime.worker" in process.cmdline()
    return False
