"""A worker's heart: says every second that it lives, whatever the worker computes."""

import contextlib
import threading
import time

from edgewise.errors import DeviceError
from edgewise.runtime.messages import Beat
from edgewise.runtime.transport import Transport

BEAT_SECONDS = 1.0


class Heart:
    """A thread of its own. Arithmetic lets other threads run, so a busy step does not stop it; a
    process that hangs does."""

    def __init__(self, transport: Transport, coordinator: str) -> None:
        self._transport, self._coordinator = transport, coordinator
        self._busy_since: float | None = None
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    @contextlib.contextmanager
    def busy(self):  # type: ignore[no-untyped-def]
        """While a message is handled."""
        self._busy_since = time.monotonic()
        try:
            yield
        finally:
            self._busy_since = None

    def _run(self) -> None:
        while not self._ended.wait(BEAT_SECONDS):
            since = self._busy_since
            busy = 0.0 if since is None else time.monotonic() - since
            with contextlib.suppress(DeviceError):  # it takes nothing now; the next beat may pass
                self._transport.send(self._coordinator, Beat(busy))

    def close(self) -> None:
        self._ended.set()
        self._thread.join()
