"""How messages get from one participant to another: one protocol, whatever carries them."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol

from torch import Tensor

from edgewise.runtime.messages import Message, Peer


@dataclass(frozen=True, slots=True)
class Envelope:
    """A message as it arrived. `sender` is proven where keys are in use."""

    sender: str
    message: Message
    tensor: Tensor | None = None


class Transport(Protocol):
    """One participant's way to all others. `send` and `post` may be called by any thread, the rest
    by one."""

    @property
    def peer(self) -> Peer:
        """Where others reach this participant."""
        ...

    @property
    def dropped(self) -> Mapping[str, int]:
        """Frames and connections that were not let in, by reason."""
        ...

    def introduce(self, peers: Mapping[str, Peer]) -> None:
        """From now on these are all others, by name: messages of nobody else are let in, and
        connections to those who are not among them any more are closed."""
        ...

    def send(self, target: str, message: Message, tensor: Tensor | None = None) -> None:
        """Queue a message; in order for each target. Raises DeviceTimeout, naming the target, where
        it has stopped taking messages, and DeviceError where nobody has that name."""
        ...

    def receive(self, timeout_seconds: float) -> Envelope | None:
        """The next message, or None when none came in time. Never raises because of what others
        sent."""
        ...

    def post(self, message: Message) -> None:
        """Put a message into this participant's own inbox."""
        ...

    def close(self) -> None:
        """Release everything; what was sent just before may be lost. May be called twice."""
        ...
