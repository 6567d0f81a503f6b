"""A clock that jumps from event to event, and servers that do one thing at a time.

Events at the same instant happen in the order in which they were scheduled, so a run never depends
on anything but its input.
"""

import heapq
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass

Action = Callable[[], None]


class Clock:
    """Simulated seconds, and what is still to happen."""

    def __init__(self) -> None:
        self.now = 0.0
        self._heap: list[tuple[float, int, Action]] = []
        self._scheduled = 0

    def at(self, seconds: float, action: Action) -> None:
        """Call `action` when the clock shows `seconds`."""
        if not seconds >= self.now:
            raise ValueError(f"cannot schedule for {seconds} s: it is {self.now} s already")
        heapq.heappush(self._heap, (seconds, self._scheduled, action))
        self._scheduled += 1

    def run(self) -> None:
        """Until nothing is left to happen."""
        while self._heap:
            self.now, _, action = heapq.heappop(self._heap)
            action()


def nothing() -> None:
    """What follows where nothing does."""


@dataclass(frozen=True, slots=True)
class Job:
    """`seconds` is asked when the job starts, then `began` is called; `served(start, end)` is told
    what became of it, also when it was cut short; `done` follows only where it was not."""

    seconds: Callable[[], float]
    served: Callable[[float, float], None]
    done: Action = nothing
    began: Action = nothing


class Server:
    """Serves one job at a time, first come, first served. Every job takes its own seconds times
    the next of `factors`."""

    def __init__(self, clock: Clock, factors: Iterator[float]) -> None:
        self._clock = clock
        self._factors = factors
        self._waiting: deque[Job] = deque()
        self._current: tuple[Job, float] | None = None
        self.stopped = False

    def add(self, job: Job) -> None:
        self._waiting.append(job)
        self._start()

    def stop(self) -> None:
        """Cut the current job short and never start another."""
        if self._current is not None and not self.stopped:
            job, began = self._current
            job.served(began, self._clock.now)
        self.stopped = True

    def _start(self) -> None:
        if self.stopped or self._current is not None or not self._waiting:
            return
        job = self._waiting.popleft()
        self._current = job, self._clock.now
        self._clock.at(self._clock.now + job.seconds() * next(self._factors), self._finish)
        job.began()

    def _finish(self) -> None:
        if self.stopped or self._current is None:
            return
        job, began = self._current
        self._current = None
        job.served(began, self._clock.now)
        job.done()
        self._start()
