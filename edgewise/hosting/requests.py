"""The requests that a host has been asked, whatever its engine is at."""

import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from queue import Empty, SimpleQueue

from edgewise.errors import EdgewiseError, PromptError
from edgewise.hosting.pending import OnToken, Pending
from edgewise.runtime.coordinator.coordinator import Coordinator
from edgewise.runtime.engine import Request, Token


class Requests:
    """In the order in which they came. `ask` is for any thread, the rest for the host's."""

    def __init__(self, wake: Callable[[], None]) -> None:
        self._wake = wake
        self._new: SimpleQueue[Pending] = SimpleQueue()
        self._asked: list[Pending] = []
        self._stalled_since: float | None = None
        self._ended = ""  # why nothing is answered any more

    def ask(self, request: Request, on_token: OnToken, seconds: float) -> Callable[[], None]:
        """One more, that waits for devices for so long. Returns what cancels it."""
        asked = Pending(request, on_token, time.monotonic(), seconds)
        self._new.put(asked)
        if self._ended:
            self._refuse_new()
        self._wake()

        def cancel() -> None:
            asked.cancelled = True
            self._wake()

        return cancel

    @property
    def open(self) -> bool:
        """Whether any is not answered."""
        return bool(self._asked) or not self._new.empty()

    @property
    def unknown(self) -> int:
        """How many no engine has seen yet."""
        return sum(asked.number is None for asked in self._asked)

    @contextmanager
    def answering(self) -> Iterator[None]:
        """Whoever is not answered at the end of this block, or asks later, is told why."""
        why = "this server has ended"
        try:
            yield
        except EdgewiseError as error:
            why += f": {error}"
            raise
        finally:
            self._ended = why
            for asked in self._asked:
                self._tell_end(asked, why)
            self._asked.clear()
            self._refuse_new()

    def _refuse_new(self) -> None:
        with suppress(Empty):
            while True:
                self._tell_end(self._new.get_nowait(), self._ended)

    def take(self, engine: Coordinator | None, stalled: str) -> None:
        """New ones to the engine, as soon as there is one; forget those that were cancelled, or
        have waited for devices too long since it is `stalled`."""
        while not self._new.empty():
            self._asked.append(self._new.get())
        now = time.monotonic()
        since = self._stalled_since = (self._stalled_since or now) if stalled else None
        for asked in list(self._asked):
            if asked.cancelled:
                self._forget(asked, engine)
            elif since is not None and now > asked.until(since):
                self._end(asked, engine, f"no answer in time: {stalled}")
            elif asked.number is None and engine is not None:
                try:
                    asked.number = engine.submit(asked.request, asked.since)
                except PromptError as error:
                    self._end(asked, engine, str(error), "refused")

    def give(self, tokens: Iterable[Token]) -> None:
        """To those that asked."""
        by_number = {asked.number: asked for asked in self._asked}
        for token in tokens:
            asked = by_number.get(token.request)
            if asked is not None and not asked.cancelled:
                asked.on_token(token)
                if token.finish is not None:
                    self._asked.remove(asked)

    def _end(
        self, asked: Pending, engine: Coordinator | None, why: str, finish: str = "error"
    ) -> None:
        self._tell_end(asked, why, finish)
        self._forget(asked, engine)

    def _tell_end(self, asked: Pending, why: str, finish: str = "error") -> None:
        asked.on_token(Token(asked.number or 0, 0, finish, time.monotonic(), (), why))

    def _forget(self, asked: Pending, engine: Coordinator | None) -> None:
        self._asked.remove(asked)
        if asked.number is not None and engine is not None:
            engine.cancel(asked.number)
