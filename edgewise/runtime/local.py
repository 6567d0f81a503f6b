"""The devices of a cluster as processes on this machine: start them, talk to them, end them."""

import contextlib
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from types import TracebackType
from typing import IO, Any

import zmq
from torch import Tensor

from edgewise import errors
from edgewise.clusters import Cluster, Link
from edgewise.errors import DeviceError, DeviceLost, DeviceTimeout, EdgewiseError
from edgewise.runtime.processors import check_processors
from edgewise.runtime.settings import Settings
from edgewise.runtime.sockets import socket_folder
from edgewise.runtime.transport import Inbox, Message, Outbox
from edgewise.runtime.worker import COORDINATOR

START_SECONDS = 120.0
STOP_SECONDS = 2.0
PING_SECONDS = 1.0


class LocalDevices:
    """One worker process per device, neighbours joined by Unix sockets in a private folder.

    The coordinator is on the source: what it sends and receives travels the source's links.
    """

    def __init__(self, cluster: Cluster) -> None:
        """Raises ClusterError before anything starts, and DeviceError."""
        check_processors(cluster)
        self.cluster = cluster
        self.roles: dict[str, str] = {}
        self.epoch = -1  # number of the plan loaded last, by which leftovers of others are told
        self._folder = socket_folder()
        names = [device.name for device in cluster.devices]
        addresses = {
            name: f"ipc://{self._folder / str(i)}" for i, name in enumerate([COORDINATOR, *names])
        }
        self._context = zmq.Context()
        self._processes: dict[str, subprocess.Popen[bytes]] = {}
        self._logs: dict[str, IO[bytes]] = {}
        into_source = _links_into(cluster, cluster.source)
        into_source.pop(cluster.source, None)
        self._inbox = Inbox(self._context, addresses[COORDINATOR], into_source)
        self._outbox = Outbox(self._context, COORDINATOR, addresses)
        try:
            for number, device in enumerate(cluster.devices):
                links = _links_into(cluster, device.name)
                if cluster.source in links:  # what the coordinator sends comes from the source
                    links[COORDINATOR] = links[cluster.source]
                self._start(number, Settings(device, addresses, links, str(self._folder / "turns")))
            self.collect("ready", names, START_SECONDS)
        except BaseException:
            self.close()
            raise

    def _start(self, number: int, settings: Settings) -> None:
        name = settings.device.name
        log = self._logs[name] = (self._folder / f"{number}.log").open("w+b")
        process = subprocess.Popen(
            # -P: the working directory may hold files named like the modules that a worker imports.
            [sys.executable, "-P", "-m", "edgewise.runtime.worker"],
            env=_environment(),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=log,
            start_new_session=True,  # Ctrl-C is for the coordinator alone
        )
        self._processes[name] = process
        assert process.stdin is not None and process.stdout is not None
        process.stdin.write(settings.to_json().encode() + b"\n")
        process.stdin.flush()
        self._inbox.watch(process.stdout.fileno(), name)

    @property
    def process_ids(self) -> dict[str, int]:
        """The operating system's number of each worker, by device."""
        return {name: process.pid for name, process in self._processes.items()}

    def send(
        self, device: str, kind: str, body: Mapping[str, Any], tensor: Tensor | None = None
    ) -> None:
        self._outbox.send(device, kind, body, tensor)

    def receive(self, timeout_seconds: float) -> Message | None:
        """The next message from any worker. Raises DeviceLost when one ends, and what a worker
        raised."""
        message = self._inbox.receive(timeout_seconds)
        if message is None:
            return None
        if message.kind == "gone":
            raise self._lost(message.sender)
        if message.kind == "failed" and message.body["epoch"] >= self.epoch:
            raise _error_of(message)
        return message

    def collect(
        self, kind: str, devices: Sequence[str], timeout_seconds: float
    ) -> dict[str, Message]:
        """Wait until every device has sent a message of that kind. Raises DeviceTimeout."""
        replies: dict[str, Message] = {}
        deadline = time.monotonic() + timeout_seconds
        while missing := [name for name in devices if name not in replies]:
            message = self.receive(max(deadline - time.monotonic(), 0))
            if message is None:
                raise DeviceTimeout(missing[0], f"was not {kind} within {timeout_seconds:g} s")
            if message.kind == kind:
                replies[message.sender] = message
        return replies

    def call(
        self, device: str, kind: str, body: Mapping[str, Any], reply: str, timeout_seconds: float
    ) -> Message:
        """Send one message and wait for its answer."""
        self.send(device, kind, body)
        return self.collect(reply, [device], timeout_seconds)[device]

    def round_trip(self, device: str) -> float:
        """Seconds from here into a device's worker and back."""
        began = time.monotonic()
        self.call(device, "ping", {}, "pong", PING_SECONDS)
        return time.monotonic() - began

    def unresponsive(self) -> list[str]:
        """The devices that do not answer a ping at once."""
        names = list(self._processes)
        for name in names:
            self.send(name, "ping", {})
        answered: set[str] = set()
        deadline = time.monotonic() + PING_SECONDS
        while len(answered) < len(names) and (left := deadline - time.monotonic()) > 0:
            message = self.receive(left)
            if message is not None and message.kind == "pong":
                answered.add(message.sender)
        return [name for name in names if name not in answered]

    def _lost(self, name: str) -> DeviceLost:
        process = self._processes[name]
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(STOP_SECONDS)
        code = process.returncode
        how = "stopped" if code is None else f"stopped with exit code {code}"
        if code is not None and code < 0:
            how = f"was killed by {signal.Signals(-code).name}"
        role = f" {self.roles[name]}" if name in self.roles else ""
        log = self._logs[name]
        log.seek(0)
        lines = log.read().decode(errors="replace").strip().splitlines()
        return DeviceLost(name, how + role + (f": {lines[-1]}" if lines else ""))

    def close(self) -> None:
        """End every process and remove every trace. May be called twice."""
        for name, process in self._processes.items():
            if process.poll() is None:
                with contextlib.suppress(DeviceError, zmq.ZMQError):
                    self._outbox.send(name, "stop", {})
        deadline = time.monotonic() + STOP_SECONDS
        try:
            for process in self._processes.values():
                _end(process, deadline)
        finally:
            for log in self._logs.values():
                log.close()
            self._processes.clear()
            self._outbox.close()
            self._inbox.close()
            self._context.destroy(linger=0)
            shutil.rmtree(self._folder, ignore_errors=True)

    def __enter__(self) -> "LocalDevices":
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()


def _environment() -> dict[str, str]:
    """This process's, without the empty entries of PYTHONPATH, which mean the working directory."""
    entries = [entry for entry in os.environ.get("PYTHONPATH", "").split(os.pathsep) if entry]
    rest = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
    return {**rest, "PYTHONPATH": os.pathsep.join(entries)} if entries else rest


def _links_into(cluster: Cluster, target: str) -> dict[str, Link]:
    return {link.source: link for link in cluster.all_links() if link.target == target}


def _end(process: "subprocess.Popen[bytes]", deadline: float) -> None:
    assert process.stdin is not None and process.stdout is not None
    with contextlib.suppress(OSError):
        process.stdin.close()
    try:
        process.wait(max(deadline - time.monotonic(), 0))
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
    process.stdout.close()


def _error_of(message: Message) -> EdgewiseError:
    """What a worker raised, as the same class where it is one of ours."""
    kind, text = getattr(errors, message.body["error"] or "-", None), message.body["message"]
    if isinstance(kind, type) and issubclass(kind, DeviceError):
        return kind(message.sender, text.removeprefix(f"device '{message.sender}' "))
    if isinstance(kind, type) and issubclass(kind, EdgewiseError):
        return kind(text)
    return DeviceError(message.sender, f"failed: {text}")
