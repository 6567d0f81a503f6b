"""At what speed a device computes: its own, or that of the one that it emulates."""

import contextlib
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from edgewise.runtime.settings import Settings
from edgewise.runtime.waiting import computing_clock, wait_until

# Seconds that another device was waited for since this was asked last, and how many of them the
# device's clock takes for computing.
Waited = Callable[[], tuple[float, float]]


class Pacer:
    def __init__(self, settings: Settings, waited: Waited = lambda: (0.0, 0.0)) -> None:
        self._slowdown, self._waited = settings.device.slowdown, waited
        self._turns, self._clock = _turns(settings.turns), computing_clock(settings.device)
        self._spent: dict[int, float] = {}  # seconds that work of a size took last

    @contextlib.contextmanager
    def paced(self, size: int) -> Iterator[list[float]]:
        """Let what is done take as long as it takes this device: `slowdown` times as long. What it
        took is in the list that this gives, afterwards, without what it waited. Work of one `size`
        takes about as long as the last."""
        began, slowdown = time.monotonic(), self._slowdown
        taken: list[float] = []
        with self._turns(began + (slowdown - 1) * self._spent.get(size, 0.0)):
            self._waited()  # what an earlier step that failed has left
            started = self._clock()
            yield taken
            waited, by_clock = self._waited()
            spent = self._spent[size] = self._clock() - started - by_clock
        wait_until(began + spent * slowdown + waited)
        taken.append(time.monotonic() - began - waited)


def _turns(file: str) -> Callable[[float], contextlib.AbstractContextManager[None]]:
    """What makes emulated devices of this machine compute by turns; real ones need none."""
    if not file:
        return lambda until: contextlib.nullcontext()
    from edgewise.runtime.worker.turns import Turns  # not on every system, and not needed there

    return Turns(Path(file)).one
