"""From the host's thread to the event loop's."""

from asyncio import AbstractEventLoop
from collections import deque
from collections.abc import Callable


class Mailbox:
    """Calls in an event loop, asked for by any thread. A step gives a token to every request: the
    loop is woken once for all of them, for each wake-up is a system call."""

    def __init__(self) -> None:
        self._calls = deque[Callable[[], None]]()
        self._woken = False  # and has not begun to look

    def put(self, loop: AbstractEventLoop, call: Callable[[], None]) -> None:
        """`loop` is always the same."""
        self._calls.append(call)
        if not self._woken:
            self._woken = True
            loop.call_soon_threadsafe(self._make)

    def _make(self) -> None:
        self._woken = False  # first: what is put from now on wakes the loop again, or is made here
        while self._calls:
            self._calls.popleft()()
