"""The three places that workers come from, each opened for real: this machine, agents, Ray."""

import contextlib
import fcntl
import os
import secrets
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from queue import Empty, SimpleQueue

import psutil

from edgewise.clusters import Cluster, Device
from edgewise.runtime import messages
from edgewise.runtime.coordinator.workers import Workers
from edgewise.runtime.launchers.agents import AgentLauncher
from edgewise.runtime.launchers.invitation import Invitation
from edgewise.runtime.launchers.local import LocalLauncher
from edgewise.runtime.messages import COORDINATOR, EVERYWHERE
from edgewise.runtime.settings import Settings
from edgewise.runtime.transport.zeromq import Keys, ZeroMQ

KINDS = ("local", "agent", "ray")
NODES = ("a", "b")
SECONDS = 60.0  # for anything, on a busy machine
DISK = 5e8  # bytes a second, of every device
AGENT = f"""
import sys
from edgewise.clusters import Device
from edgewise.runtime.launchers.agent import Agent
from edgewise.runtime.launchers.invitation import Invitation
device = Device(sys.argv[3], 10**9, disk_bytes_per_second={DISK})
Agent(sys.argv[1], Invitation.parse(sys.argv[2]), device).run()
"""


def until(true, seconds=SECONDS):
    """Waits until something holds, and says whether it does."""
    deadline = time.monotonic() + seconds
    while not (now := true()) and time.monotonic() < deadline:
        time.sleep(0.05)
    return now


def is_running(pid):
    with contextlib.suppress(psutil.NoSuchProcess):
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    return False


def worker_pids():
    """Of all workers that this process's children and theirs have started."""
    pids = set()
    for process in psutil.Process().children(recursive=True):
        with contextlib.suppress(psutil.NoSuchProcess):
            if "edgewise.runtime.worker" in process.cmdline():
                pids.add(process.pid)
    return pids


class Place:
    """Workers of one kind under a coordinator; `posted` is what the
    launcher said."""

    def __init__(self, kind, names=NODES[:1]):
        self.kind, self.posted, self.keys = kind, SimpleQueue(), Keys.make()
        here = EVERYWHERE if kind == "ray" else "127.0.0.1"
        self.transport = ZeroMQ(COORDINATOR, f"tcp://{here}:*", self.keys)
        source = Device("here", 10**9, disk_bytes_per_second=DISK)
        self.workers = Workers(Cluster((source,), (), "here"), self.transport)
        self.workers.at_end(self.transport.close)
        self.agents = []
        self.launcher = getattr(self, f"_{kind}")(names)
        if kind != "local":
            assert until(lambda: self._arrived() >= set(names))

    def _local(self, names):
        return LocalLauncher(self._post)

    def _agent(self, names):
        invitation, peer = Invitation.to(self.keys.public), self.transport.peer
        ours = self.keys, invitation, peer, self._post, "here"
        launcher = AgentLauncher("tcp://127.0.0.1:*", *ours)
        for name in names:
            arguments = [launcher.address, invitation.token, name]
            self.agents.append(subprocess.Popen([sys.executable, "-c", AGENT, *arguments]))
        return launcher

    def _ray(self, names):
        from edgewise.runtime.launchers.ray import RayLauncher

        return RayLauncher(self._post, "here")

    def _post(self, message):
        self.posted.put(message)
        self.transport.post(message)

    def _arrived(self):
        self.workers.receive(0)
        return {joined.device.name for joined in self.workers.arrivals}

    def start(self, name):
        """Start a worker as the coordinator does."""
        if self.kind == "local":
            device = Device(name, 10**9, disk_bytes_per_second=DISK)
            self.workers.cluster = self.workers.cluster.joined_by(device)
            self._start_here(self.launcher, device)
        else:
            joined = next(x for x in self.workers.arrivals if x.device.name == name)
            self.workers.admit(joined, self.launcher)

    def start_source(self):
        """The coordinator's own machine's."""
        self._start_here(LocalLauncher(self.transport.post), self.workers.cluster.devices[0])

    def _start_here(self, launcher, device):
        keys, peer = Keys.make(), self.transport.peer.at("127.0.0.1")
        bind = self.transport.peer.address.rpartition(":")[0] + ":*"
        self.workers.start(launcher, [Settings(device, bind, peer, keys.public, keys.secret)])

    def next_ended(self, seconds=SECONDS):
        """What the launcher says next of a worker that ended, None where it says nothing."""
        deadline = time.monotonic() + seconds
        with contextlib.suppress(Empty):
            while True:
                message = self.posted.get(timeout=max(deadline - time.monotonic(), 0))
                if isinstance(message, messages.Ended):
                    return message
        return None

    def close(self):
        self.workers.close()
        self.launcher.close()
        for agent in self.agents:
            agent.kill()
            agent.wait()


@contextlib.contextmanager
def only_ray_cluster():
    """One at a time on a machine: two that start together may choose the same port, and then have
    each other's token refused."""
    with (Path(tempfile.gettempdir()) / "edgewise-tests-ray.lock").open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


class RayCluster:
    """A head and two nodes on this machine, asking for a token."""

    token = secrets.token_hex(32)  # one in a process: Ray reads it there once

    def __init__(self):
        with contextlib.ExitStack() as stack:
            stack.enter_context(only_ray_cluster())
            self._start()
            self._alone = stack.pop_all()

    def _start(self):
        os.environ.update(self.environment)
        import ray
        from ray.cluster_utils import Cluster as Nodes

        few = {"object_store_memory": 80 * 2**20, "include_dashboard": False}
        head = {"num_cpus": 0, "node_name": "head", **few}
        self._nodes = Nodes(initialize_head=True, head_node_args=head)
        self.address, self._ray = self._nodes.address, ray
        for name in NODES:
            self.add(name)
        connect(self.address)

    @property
    def environment(self):
        token = {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": self.token}
        return {**token, "RAY_USAGE_STATS_ENABLED": "0"}

    def add(self, name):
        few = {"object_store_memory": 80 * 2**20, "num_cpus": 1}
        few["resources"] = {"disk_bytes_per_second": DISK}
        return self._nodes.add_node(node_name=name, wait=True, **few)

    def remove(self, node):
        self._nodes.remove_node(node, allow_graceful=False)

    def close(self):
        self._ray.shutdown()
        self._nodes.shutdown()
        for name in self.environment:
            os.environ.pop(name, None)
        self._alone.close()


def connect(address):
    import ray

    ray.init(address=address, log_to_driver=False, logging_level="ERROR")


def hold(kind, address):
    """Start a worker, and wait to be killed."""
    if kind == "ray":
        connect(address)
    place = Place(kind)
    place.start(NODES[0])
    os.write(1, b"started\n")
    time.sleep(2 * SECONDS)


def come_and_leave(address, times=4):
    """Connect to a Ray cluster, start a worker there and leave it, again and again; says how many
    descriptors are open after each time."""
    import ray

    for _ in range(times):
        connect(address)
        place = Place("ray")
        place.start(NODES[0])
        place.close()
        ray.shutdown()
        os.write(1, b"%d\n" % psutil.Process().num_fds())
