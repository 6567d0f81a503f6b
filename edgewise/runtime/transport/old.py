"""Messages between processes: every participant has one inbox, everybody else sends to it.

A message is a JSON header and, behind it, at most one tensor's bytes. No pickle. A message from a
device whose link is emulated becomes visible when that link would have delivered it.
"""

import heapq
import json
import math
import time
from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass, field
from itertools import count
from typing import Any

import torch
import zmq
from torch import Tensor

from edgewise.clusters import Link
from edgewise.errors import DeviceTimeout

MAX_MESSAGE_BYTES = 2**30
SEND_TIMEOUT_SECONDS = 10.0
_DTYPES = {"float32": torch.float32, "int64": torch.int64, "uint8": torch.uint8}
_SPIN_SECONDS = 2e-4

# What travels between devices once a plan runs, or measures how that will be. Everything else only
# sets up, and does not wait for emulated links.
TRAFFIC = frozenset(("step", "token", "drop", "echo", "echoed"))

Sockets = zmq.Context[zmq.Socket[bytes]]


@dataclass(frozen=True, slots=True)
class Message:
    """`kind` says what to do, `sender` who asks; `body` holds JSON values."""

    kind: str
    sender: str
    body: Mapping[str, Any] = field(default_factory=dict)
    tensor: Tensor | None = None


def frames_of(message: Message) -> list[Any]:
    """Frames for the wire."""
    header: dict[str, Any] = {
        "kind": message.kind,
        "sender": message.sender,
        "sent": time.monotonic(),
        "body": message.body,
    }
    if message.tensor is None:
        return [json.dumps(header).encode()]
    tensor = message.tensor.detach().cpu().contiguous()
    header["shape"] = list(tensor.shape)
    header["dtype"] = str(tensor.dtype).removeprefix("torch.")
    return [json.dumps(header).encode(), tensor.numpy()]


def message_of(frames: list[bytes]) -> tuple[Message, float]:
    """The message and when it was sent. Raises ValueError on anything malformed."""
    header = json.loads(frames[0])
    tensor = None
    if "shape" in header:
        dtype, shape = _DTYPES[header["dtype"]], [int(n) for n in header["shape"]]
        if min(shape, default=0) < 0 or len(frames) != 2:
            raise ValueError(f"malformed tensor {shape}")
        if math.prod(shape) * dtype.itemsize != len(frames[1]):
            raise ValueError(f"tensor {shape} does not match its {len(frames[1])} bytes")
        buffer = bytearray(frames[1])
        tensor = torch.frombuffer(buffer, dtype=dtype) if buffer else torch.empty(0, dtype=dtype)
        tensor = tensor.view(shape)
    body = header["body"]
    if not isinstance(body, dict):
        raise ValueError("the body is not an object")
    return Message(str(header["kind"]), str(header["sender"]), body, tensor), float(header["sent"])


class Inbox:
    """Receives messages, in the order in which the emulated links deliver them.

    A watched file descriptor that closes arrives as a message of kind "gone".
    """

    def __init__(self, context: Sockets, address: str, links: Mapping[str, Link]) -> None:
        self._socket = context.socket(zmq.PULL)
        self._socket.setsockopt(zmq.LINGER, 0)
        self._socket.setsockopt(zmq.MAXMSGSIZE, MAX_MESSAGE_BYTES)
        self._socket.bind(address)
        self._poller = zmq.Poller()
        self._poller.register(self._socket, zmq.POLLIN)
        self._links = links
        self._busy: dict[str, float] = {}
        self._watched: dict[int, str] = {}
        self._order = count()
        self._due: list[tuple[float, int, Message]] = []
        self._gone: deque[str] = deque()

    def watch(self, fd: int, name: str) -> None:
        """Report `name` as gone when `fd` reaches its end."""
        self._watched[fd] = name
        self._poller.register(fd, zmq.POLLIN)

    def receive(self, timeout_seconds: float) -> Message | None:
        """The next message, or None when none came in time."""
        deadline = time.monotonic() + timeout_seconds
        while True:
            self._take_in()
            now = time.monotonic()
            if self._due and self._due[0][0] <= now:
                return heapq.heappop(self._due)[2]
            if self._gone:
                return Message("gone", self._gone.popleft())
            if now >= deadline:
                return None
            until = min(deadline, self._due[0][0]) if self._due else deadline
            self._wait(until)

    def _wait(self, until: float) -> None:
        # Polling counts in whole milliseconds; the rest is waited out precisely.
        milliseconds = int((until - time.monotonic()) * 1000)
        if milliseconds > 0 or not self._due:
            self._poller.poll(max(milliseconds, 1))
        else:
            wait_until(until)

    def _take_in(self) -> None:
        for fd, event in self._poller.poll(0):
            if isinstance(fd, int) and event:
                self._poller.unregister(fd)
                self._gone.append(self._watched.pop(fd))
        while True:
            try:
                frames = self._socket.recv_multipart(zmq.NOBLOCK)
            except zmq.Again:
                return
            message, sent = message_of(frames)
            due = sent
            if message.kind in TRAFFIC:
                due = self._delivery(message.sender, sent, sum(map(len, frames[1:])))
            heapq.heappush(self._due, (due, next(self._order), message))

    def _delivery(self, sender: str, sent: float, size: int) -> float:
        """When an emulated link delivers: one message at a time, then the latency."""
        link = self._links.get(sender)
        if link is None:
            return sent
        free = max(sent, self._busy.get(sender, 0.0))
        self._busy[sender] = free + link.occupancy_seconds(size)
        return self._busy[sender] + link.latency_seconds

    def close(self) -> None:
        self._socket.close()


class Outbox:
    """Sends to other participants' inboxes, whose addresses it knows."""

    def __init__(self, context: Sockets, sender: str, addresses: Mapping[str, str]) -> None:
        self._context, self._sender, self._addresses = context, sender, addresses
        self._sockets: dict[str, zmq.Socket[bytes]] = {}

    def send(
        self, target: str, kind: str, body: Mapping[str, Any], tensor: Tensor | None = None
    ) -> None:
        """Raises DeviceTimeout when the target has stopped taking messages."""
        if target not in self._sockets:
            self._sockets[target] = self._connect(target)
        try:
            self._sockets[target].send_multipart(
                frames_of(Message(kind, self._sender, body, tensor)), copy=False
            )
        except zmq.Again:
            raise DeviceTimeout(target, f"took no message for {SEND_TIMEOUT_SECONDS:g} s") from None

    def _connect(self, target: str) -> "zmq.Socket[bytes]":
        socket = self._context.socket(zmq.PUSH)
        socket.setsockopt(zmq.LINGER, 0)
        socket.setsockopt(zmq.SNDTIMEO, int(SEND_TIMEOUT_SECONDS * 1000))
        socket.connect(self._addresses[target])
        return socket

    def close(self) -> None:
        for socket in self._sockets.values():
            socket.close()


def wait_until(moment: float) -> None:
    """Sleep until a moment of `time.monotonic`, to within some microseconds: the end is spun."""
    remaining = moment - time.monotonic()
    if remaining > _SPIN_SECONDS:
        time.sleep(remaining - _SPIN_SECONDS)
    while time.monotonic() < moment:
        pass
