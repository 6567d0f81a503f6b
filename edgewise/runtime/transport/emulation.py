"""Links of other speeds than this machine's own, emulated by whoever receives, and the network
interface that a device's links share."""

import heapq
import math
import threading
import time
from collections.abc import Mapping
from itertools import count

from torch import Tensor

from edgewise.clusters import Link
from edgewise.runtime.messages import Message, Peer, Stop
from edgewise.runtime.transport import Envelope, Transport
from edgewise.runtime.transport.interface import MAX_WAITING_MESSAGES, Interface, WayOut
from edgewise.runtime.waiting import SPIN_SECONDS, wait_until

MAX_WAITING_BYTES = 2**26
_IDLE_SECONDS = 60.0


class Emulated:
    """A transport whose messages become visible when the link from their sender would have
    delivered them: one after the other at its rate, then its latency, counted from when they
    reached this process. Senders without a link in `links` (by name) are not delayed. Tensors wait
    for this device's interface, too: on their way in for all links at once, and on their way out.

    A thread takes messages in while their owner computes. It stops, and so at last do the senders,
    while one sender has MAX_WAITING_MESSAGES, or MAX_WAITING_BYTES of tensors, waiting here.
    """

    def __init__(
        self,
        transport: Transport,
        links: Mapping[str, Link],
        interface_bytes_per_second: float = math.inf,
    ) -> None:
        self._transport, self._links = transport, links
        self._way_in = Interface(interface_bytes_per_second)
        self._way_out: WayOut | None = None
        if interface_bytes_per_second < math.inf:
            self._way_out = WayOut(interface_bytes_per_second, transport.send)
        self._free: dict[str, float] = {}  # from when on a sender's link is
        self._messages: dict[str, int] = {}  # that wait, by sender
        self._bytes: dict[str, int] = {}
        self._due: list[tuple[float, int, Envelope]] = []
        self._order = count()
        self._changed = threading.Condition()
        self._closed = False
        self._thread = threading.Thread(target=self._take_in, name="edgewise links", daemon=True)
        self._thread.start()

    @property
    def peer(self) -> Peer:
        return self._transport.peer

    @property
    def dropped(self) -> Mapping[str, int]:
        return self._transport.dropped

    def introduce(self, peers: Mapping[str, Peer]) -> None:
        self._transport.introduce(peers)

    def send(self, target: str, message: Message, tensor: Tensor | None = None) -> None:
        if self._way_out and tensor is not None and message.is_traffic:
            self._way_out.put(target, message, tensor)
        else:
            self._transport.send(target, message, tensor)

    def post(self, message: Message) -> None:
        self._transport.post(message)

    def receive(self, timeout_seconds: float) -> Envelope | None:
        deadline = time.monotonic() + timeout_seconds
        while True:
            with self._changed:
                now = time.monotonic()
                due = self._due[0][0] if self._due else deadline
                if self._due and due <= now:
                    return self._pop()
                if now >= deadline:
                    return None
                until = min(due, deadline)
                if until - now > SPIN_SECONDS:
                    self._changed.wait(until - now - SPIN_SECONDS)
                    continue
            wait_until(until)

    def _pop(self) -> Envelope:
        _, _, envelope = heapq.heappop(self._due)
        self._messages[envelope.sender] -= 1
        self._bytes[envelope.sender] -= _size(envelope)
        self._changed.notify_all()
        return envelope

    def _take_in(self) -> None:
        while not self._closed:
            envelope = self._transport.receive(_IDLE_SECONDS)
            if envelope is None:
                continue
            due = self._delivery(envelope, time.monotonic())
            sender = envelope.sender
            with self._changed:
                heapq.heappush(self._due, (due, next(self._order), envelope))
                self._messages[sender] = self._messages.get(sender, 0) + 1
                self._bytes[sender] = self._bytes.get(sender, 0) + _size(envelope)
                self._changed.notify_all()
                while not (self._closed or self._has_room(sender)):
                    self._changed.wait()

    def _has_room(self, sender: str) -> bool:
        waiting = self._messages[sender], self._bytes[sender]
        return waiting[0] < MAX_WAITING_MESSAGES and waiting[1] < MAX_WAITING_BYTES

    def _delivery(self, envelope: Envelope, arrived: float) -> float:
        """When the sender's link delivers what has arrived now."""
        link = self._links.get(envelope.sender)
        if link is None or not envelope.message.is_traffic:
            return arrived
        size = _size(envelope)
        begins = self._way_in.begins(arrived, size) if size else arrived
        free = max(begins, self._free.get(envelope.sender, 0.0))
        self._free[envelope.sender] = free + link.occupancy_seconds(size)
        return self._free[envelope.sender] + link.latency_seconds

    def close(self) -> None:
        with self._changed:
            if self._closed:
                return
            self._closed = True
            self._changed.notify_all()
        self._transport.post(Stop())  # ends the wait for a message
        self._thread.join()
        self._transport.close()
        if self._way_out:
            self._way_out.close()


def _size(envelope: Envelope) -> int:
    return 0 if envelope.tensor is None else envelope.tensor.nbytes
