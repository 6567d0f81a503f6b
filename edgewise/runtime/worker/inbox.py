"""What a worker is told, one message after the other, while a step may wait for one of them."""

import time
from collections import deque
from collections.abc import Callable

from torch import Tensor

from edgewise.clusters import Device
from edgewise.errors import DeviceError, DeviceTimeout
from edgewise.runtime import messages
from edgewise.runtime.messages import Message
from edgewise.runtime.transport import Envelope, Transport
from edgewise.runtime.waiting import computing_clock

MOST_KEPT = 1024  # messages, while one is waited for


class GivenUp(DeviceError):
    """Nobody waits for this step any more."""


class Inbox:
    """What comes while a step waits is kept, to be handled afterwards; only who may be talked to is
    `introduced` at once."""

    def __init__(
        self, device: Device, transport: Transport, introduce: Callable[[Envelope], None]
    ) -> None:
        self._transport, self._introduce = transport, introduce
        self._clock, self.kept = computing_clock(device), deque[Envelope]()
        self._waited = self._waited_by_clock = 0.0

    def next(self, timeout_seconds: float) -> Envelope | None:
        """What was kept first, else what comes in time."""
        return self.kept.popleft() if self.kept else self._transport.receive(timeout_seconds)

    def wait_for(
        self, device: str, wanted: Callable[[Envelope], bool], timeout_seconds: float
    ) -> Envelope:
        """What a step cannot go on without, from a device that is known to work on it. Raises
        DeviceTimeout, GivenUp, and DeviceError where too much came meanwhile."""
        began, by_clock = time.monotonic(), self._clock()
        try:
            while True:
                left = began + timeout_seconds - time.monotonic()
                envelope = self._transport.receive(max(left, 0))
                if envelope is None:
                    raise DeviceTimeout(device, f"did not answer within {timeout_seconds:g} s")
                if wanted(envelope):
                    return envelope
                self._keep(envelope, device)
        finally:
            self._waited += time.monotonic() - began
            self._waited_by_clock += self._clock() - by_clock

    def returned(
        self, device: str, question: Message, numbers: Tensor, timeout_seconds: float
    ) -> Tensor:
        """What a device makes of numbers that were sent with a question: the same message comes
        back with as many. Raises as `wait_for` does, and DeviceError for something else."""

        def is_answer(envelope: Envelope) -> bool:
            return envelope.message == question and envelope.sender == device

        tensor = self.wait_for(device, is_answer, timeout_seconds).tensor
        if tensor is None or tensor.shape != numbers.shape or tensor.dtype != numbers.dtype:
            raise DeviceError(device, "answered with something else than what was asked")
        return tensor

    def waited(self) -> tuple[float, float]:
        """Seconds that steps waited since this was asked last, and how many of them the device's
        clock takes for computing."""
        waited = self._waited, self._waited_by_clock
        self._waited = self._waited_by_clock = 0.0
        return waited

    def _keep(self, envelope: Envelope, device: str) -> None:
        if isinstance(envelope.message, messages.Peers):
            self._introduce(envelope)  # who was lost may be there again, and waits to be known
        elif envelope.message.ends_steps:
            self.kept.appendleft(envelope)  # before steps of the plan that it ends
            raise GivenUp(device, "did not answer before something else was to be done")
        elif len(self.kept) == MOST_KEPT:
            raise DeviceError(envelope.sender, f"sent {MOST_KEPT} messages during one step")
        else:
            self.kept.append(envelope)
