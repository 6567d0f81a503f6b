"""One network interface for all links of a device, emulated."""

import threading
import time
from collections.abc import Callable
from queue import Queue

from torch import Tensor

from edgewise.errors import DeviceError, DeviceTimeout
from edgewise.runtime.messages import Message
from edgewise.runtime.waiting import SPIN_SECONDS, wait_until

MAX_WAITING_MESSAGES = 64

Send = Callable[[str, Message, Tensor | None], None]


class Interface:
    """One of its ways, out or in: messages pass it one after the other."""

    def __init__(self, bytes_per_second: float) -> None:
        self._bytes_per_second, self._free = bytes_per_second, 0.0

    def begins(self, at: float, size: int) -> float:
        """When `size` bytes that come to it at a moment of `time.monotonic` begin to pass."""
        begins = max(at, self._free)
        self._free = begins + size / self._bytes_per_second
        return begins


class WayOut:
    """Where messages wait until they may leave by an interface, and are given to `send` then: in a
    thread for each target, so that one that takes nothing keeps no other waiting."""

    def __init__(self, bytes_per_second: float, send: Send) -> None:
        self._interface, self._send = Interface(bytes_per_second), send
        self._queues: dict[str, Queue[tuple[float, Message, Tensor] | None]] = {}
        self._threads = list[threading.Thread]()
        self._lock = threading.Lock()  # of the three above
        self._errors: dict[str, DeviceTimeout | ValueError] = {}
        self._closed = threading.Event()

    def put(self, target: str, message: Message, tensor: Tensor) -> None:
        """Waits while too many messages wait for this target. Raises DeviceTimeout, and ValueError,
        where `send` has of an earlier one. The tensor's memory is the caller's again."""
        if (error := self._errors.pop(target, None)) is not None:
            raise error
        with self._lock:
            queue = self._queues.get(target) or self._open(target)
            begins = self._interface.begins(time.monotonic(), tensor.nbytes)
        queue.put((begins, message, tensor.clone()))

    def _open(self, target: str) -> Queue[tuple[float, Message, Tensor] | None]:
        queue = self._queues[target] = Queue(MAX_WAITING_MESSAGES)
        thread = threading.Thread(target=self._leave, args=(target,), daemon=True)
        self._threads.append(thread)
        thread.start()
        return queue

    def _leave(self, target: str) -> None:
        queue = self._queues[target]
        while (waiting := queue.get()) is not None:
            begins, message, tensor = waiting
            if self._closed.wait(max(begins - time.monotonic() - SPIN_SECONDS, 0)):
                continue  # to the end of the queue
            wait_until(begins)
            try:
                self._send(target, message, tensor)
            except (DeviceTimeout, ValueError) as error:
                self._errors[target] = error
            except DeviceError:  # it has left, and with it what was for it
                continue

    def close(self) -> None:
        """What has not left is lost."""
        self._closed.set()
        for queue in self._queues.values():
            queue.put(None)
        for thread in self._threads:
            thread.join()
