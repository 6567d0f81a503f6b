"""Signs of life: who was heard from when, and who has been at what for how long."""

import time
from collections.abc import Iterable

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
        """Nobody was listened to since the last time: that is not their silence."""
        idle = time.monotonic() - self._listened
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
