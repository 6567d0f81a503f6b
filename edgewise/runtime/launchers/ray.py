"""Workers on the nodes of a Ray cluster. Ray says which machines there are, starts things on them
and notices when they fail; what workers say to each other does not go through it."""

import contextlib
import math
import os
import socket
import threading
import time
from collections.abc import Callable, Mapping
from concurrent.futures import Future, wait
from dataclasses import dataclass
from functools import partial
from queue import SimpleQueue
from types import MappingProxyType
from typing import Any

import ray
from ray._private.services import get_ray_address_from_environment
from ray.exceptions import RayError, RayTaskError
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from edgewise.clusters import Device
from edgewise.errors import ClusterError, DeviceLost
from edgewise.runtime.launchers.local import LocalLauncher
from edgewise.runtime.messages import EVERYWHERE, Ended, Joined, Message, Peer
from edgewise.runtime.settings import Settings
from edgewise.runtime.transport.zeromq import Keys

LOOK_SECONDS = 1.0  # between looks at which nodes there are
AGAIN_SECONDS = 5.0  # before a node whose worker was ended is offered again
END_SECONDS = 5.0
HEAD_BYTES = 80 * 2**20  # Ray's store of objects, at its smallest: nothing of ours is in it
DISK = "disk_bytes_per_second"  # a resource of nodes that may read layers from their disk

disconnect = ray.shutdown


@dataclass(frozen=True, slots=True)
class Node:
    """A machine of the Ray cluster as a device. Others reach it at `host`."""

    id: str
    device: Device
    host: str


def nodes(source: str) -> dict[str, Node]:
    """The other nodes of the cluster that this process is connected to, by name: their memory,
    processors and disks are what Ray may use of them. The second of two with one name is left out
    until the first is gone, and one that is called as this machine's device, the `source`."""
    here = ray.get_runtime_context().get_node_id()
    others: dict[str, Node] = {}
    for each in ray.nodes():
        name, has = each["NodeName"], each["Resources"]
        other = each["NodeID"] != here and name != source
        if not each["Alive"] or not other or not has.get("memory"):
            continue
        threads, disk = max(int(has.get("CPU", 1)), 1), float(has.get(DISK, 0))
        device = Device(name, int(has["memory"]), threads, disk_bytes_per_second=disk)
        others.setdefault(name, Node(each["NodeID"], device, each["NodeManagerAddress"]))
    return others


def connect(host: str, address: str | None = None) -> str:
    """Connect to the Ray cluster at `address`, of which this machine must be a part; without one,
    to that which this machine is part of, and where there is none, start one that others reach at
    `host` and that ends with this process. Ray's own dealings are then open to
    those only who have its token. Returns the line by which a machine becomes a node. Raises
    ClusterError."""
    how: dict[str, Any] = {"log_to_driver": False, "logging_level": "ERROR"}
    try:
        if address or "RAY_ADDRESS" in os.environ or _is_in_one():
            ray.init(address=address or "auto", **how)
        else:
            how |= {"num_cpus": 0, "object_store_memory": HEAD_BYTES, "include_dashboard": False}
            ray.init(address="local", _node_ip_address=host, **how)
    except (RayError, ConnectionError, RuntimeError, ValueError) as error:
        raise ClusterError(f"Ray: {_first_line(error)}") from None
    return f"ray start --address={ray.get_runtime_context().gcs_address}"


def _is_in_one() -> bool:
    """Whether this machine is part of a cluster that answers. Ray keeps the address of the last one
    that the machine was in, and would wait for it a minute where it is gone."""
    with contextlib.suppress(OSError):  # Ray's, too, where it knows of none
        host, _, port = get_ray_address_from_environment("auto", None).rpartition(":")
        with socket.create_connection((host, int(port)), LOOK_SECONDS):
            return True
    return False


class _Starter:
    """The actor: starts and ends one worker on its node. When the actor ends, the worker does."""

    def __init__(self) -> None:
        self._ended: SimpleQueue[Ended] = SimpleQueue()
        self._launcher = LocalLauncher(self._ended.put)

    def start(self, device: Device, coordinator: Peer) -> str:
        """Returns the public key; the secret one stays on this machine."""
        keys, bind = Keys.make(), f"tcp://{EVERYWHERE}:*"
        self._launcher.start(Settings(device, bind, coordinator, keys.public, keys.secret))
        return keys.public

    def ended(self) -> Ended:
        """Waits until the worker has ended by itself."""
        return self._ended.get()

    def end(self, device: str) -> None:
        self._launcher.end(device)

    def close(self) -> None:
        self._launcher.close()


class RayLauncher:
    """One actor per worker, on its device's node. `post` tells of nodes that come and go, from a
    thread that looks each second, and of workers that ended. The process must be connected to a
    cluster (`ray.init`), and stay so until this is closed. Its own device is the `source`."""

    def __init__(self, post: Callable[[Message], None], source: str) -> None:
        """Raises ClusterError where Ray asks for no token."""
        if os.environ.get("RAY_AUTH_MODE") != "token":  # which Ray sets itself where it has a token
            raise ClusterError("anybody may use this Ray cluster; set RAY_AUTH_MODE=token")
        self._post, self._source = post, source
        self._here = ray.util.get_node_ip_address()
        self._starters: dict[str, Any] = {}
        self._ending: list[threading.Thread] = []
        self._calls: list[Future[None]] = []  # of actors, that may not be back
        self._offers: dict[str, float] = {}  # when nodes that are there are to be offered again
        self._closed = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)
        self._thread.start()

    process_ids: Mapping[str, int] = MappingProxyType({})  # they are other machines' processes

    def start(self, settings: Settings) -> Future[str]:
        """Start a worker on its node, with keys made there: first an actor, a process that imports
        torch, which takes seconds."""
        name = settings.device.name
        self._offers.pop(name, None)
        if (node := nodes(self._source).get(name)) is None:
            raise DeviceLost(name, "is not in the Ray cluster")
        there = NodeAffinitySchedulingStrategy(node.id, soft=False)
        actor: Any = ray.remote(_Starter)
        starter = actor.options(  # one of its two calls at a time waits for the worker's end
            num_cpus=0, max_concurrency=2, scheduling_strategy=there
        ).remote()
        self._starters[name], key = starter, Future[str]()
        started = starter.start.remote(settings.device, settings.coordinator.at(self._here))
        self._when_back(started, partial(_tell_key, key, name))
        self._when_back(starter.ended.remote(), partial(self._ended, name, starter))
        return key

    def _when_back(self, call: Any, act: Callable[[Future[Any]], None]) -> None:
        """Without keeping Ray's own future: what it refers to must be gone when Ray is left, which
        else leaves a socket open."""
        back: Future[None] = Future()
        future = call.future()
        future.add_done_callback(act)
        future.add_done_callback(lambda done: back.set_result(None))
        self._calls = [*(x for x in self._calls if not x.done()), back]

    def _ended(self, name: str, starter: Any, waited: Future[Ended]) -> None:
        if self._starters.get(name) is not starter:
            return  # it was ended from here
        error = waited.exception()
        lost = Ended(name, "lost the Ray actor that started it", _first_line(error))
        self._post(waited.result() if error is None else lost)

    def prepare(self) -> None:
        """Nothing: an actor's worker is not started twice."""

    def end(self, device: str) -> None:
        """The worker at once, without waiting for its node, which may be gone, or still starting
        the actor. It is offered again after a while if it is there."""
        if (starter := self._starters.pop(device, None)) is not None:
            ending = threading.Thread(target=_end, args=(starter, device), daemon=True)
            ending.start()
            self._ending = [*(x for x in self._ending if x.is_alive()), ending]
            self._offers[device] = time.monotonic() + AGAIN_SECONDS

    def close(self) -> None:
        self._closed.set()
        for thread in (self._thread, *self._ending):
            thread.join()
        starters, self._starters = self._starters, {}
        closing = [starter.close.remote() for starter in starters.values()]
        if closing:
            ray.wait(closing, num_returns=len(closing), timeout=END_SECONDS)
        for starter in starters.values():
            ray.kill(starter)
        wait(self._calls, END_SECONDS)

    def _watch(self) -> None:
        known: dict[str, Node] = {}
        while not self._closed.is_set():
            with contextlib.suppress(RayError):  # the head does not answer now
                known = self._tell(known, nodes(self._source))
            self._closed.wait(LOOK_SECONDS)

    def _tell(self, known: dict[str, Node], there: dict[str, Node]) -> dict[str, Node]:
        """Post what is new; returns what is known now."""
        for name, node in known.items():
            if there.get(name) != node:
                self._post(Ended(name, "left the Ray cluster"))
        for name, node in there.items():
            due = time.monotonic() >= self._offers.get(name, math.inf)
            if due or known.get(name) != node:
                self._offers.pop(name, None)
                self._post(Joined(node.device, node.host))
        return there


def _end(starter: Any, device: str) -> None:
    with contextlib.suppress(RayError):  # it is gone, and its worker with it
        ray.get(starter.end.remote(device), timeout=END_SECONDS)
    ray.kill(starter)


def _tell_key(key: Future[str], name: str, started: Future[str]) -> None:
    if error := started.exception():
        key.set_exception(DeviceLost(name, f"started nothing: {_first_line(error)}"))
    else:
        key.set_result(started.result())


def _first_line(error: BaseException | None) -> str:
    """Of what was raised on a node, not of Ray's wrapping."""
    cause = error.cause if isinstance(error, RayTaskError) else error
    return str(cause).partition("\n")[0]
