"""Signs of life: who was heard from when, and who has been at what for how long."""

import time
from collections import deque
from collections.abc import Container, Iterable

from edgewise.runtime.messages import Beat
from edgewise.runtime.transport import Envelope, Transport

MOST_KEPT = 1024  # messages, that were heard and not yet taken
MOMENT_SECONDS = 1.0  # between two looks at most, for whoever listens again and again
SILENT_SECONDS = 3.0  # without a heartbeat, after which a device is taken for lost


class Signs:
    """Of devices that were heard from at all. Silence while nobody listened is nobody's."""

    def __init__(self) -> None:
        self._heard: dict[str, float] = {}
        self._busy: dict[str, float] = {}
        self._listened = self._stirred = time.monotonic()

    @property
    def names(self) -> Iterable[str]:
        return self._heard.keys()

    def begin_to_listen(self) -> None:
        """Nobody was listened to since the last time: that is not their silence, unless it was a
        moment, of which all is heard before anybody is taken for silent."""
        idle = time.monotonic() - self._listened
        if idle < MOMENT_SECONDS:
            return
        self._heard = {name: heard + idle for name, heard in self._heard.items()}

    def listened(self) -> None:
        """Until now."""
        self._listened = time.monotonic()

    def hear(self, name: str) -> None:
        """Something that it did, just now."""
        self._heard[name] = self._stirred = self._listened

    def hear_beat(self, name: str, busy_seconds: float) -> None:
        """It lives, and has been at what it does for so long."""
        self._heard[name], self._busy[name] = self._listened, busy_seconds
        if busy_seconds:
            self._stirred = self._listened

    def stir(self) -> None:
        """Somebody was told to do something."""
        self._stirred = time.monotonic()

    def forget(self, name: str) -> None:
        self._heard.pop(name, None)
        self._busy.pop(name, None)

    def silent(self) -> str:
        """Whoever was silent for too long, "" for nobody."""
        late = (x for x, at in self._heard.items() if self._listened - at > SILENT_SECONDS)
        return next(late, "")

    @property
    def still_seconds(self) -> float:
        """For how long nobody has done anything, nor been told to."""
        return time.monotonic() - self._stirred

    def busiest(self) -> str:
        """The device that has been at what it does now for longest."""
        return max(self._heard, key=lambda name: self._busy.get(name, 0.0))


class Ear:
    """Hears who of `known` speaks. Silence is looked for every `look_seconds`, however much others
    say."""

    def __init__(
        self, transport: Transport, signs: Signs, known: Container[str], look_seconds: float
    ) -> None:
        self._transport, self._signs, self._known = transport, signs, known
        self._look_seconds = look_seconds
        self._heard, self._looked = deque[Envelope](), time.monotonic()

    def next(self, timeout_seconds: float) -> Envelope | None:
        """What came first and was not taken yet, else what comes in time."""
        return self._heard.popleft() if self._heard else self._hear(timeout_seconds)

    def silent(self) -> str:
        """Whoever was silent for too long, "" for nobody, and while it is too early to look again:
        all that has come is heard first."""
        if time.monotonic() - self._looked < self._look_seconds:
            return ""
        self._looked = time.monotonic()
        while len(self._heard) < MOST_KEPT:
            envelope = self._hear(0)
            if envelope is None:
                return self._signs.silent()
            self._heard.append(envelope)
        return ""

    def _hear(self, timeout_seconds: float) -> Envelope | None:
        envelope = self._transport.receive(timeout_seconds)
        self._signs.listened()
        if envelope is not None and envelope.sender in self._known:
            message = envelope.message
            if isinstance(message, Beat):
                self._signs.hear_beat(envelope.sender, message.busy_seconds)
            else:
                self._signs.hear(envelope.sender)
        return envelope
