"""Adapters that come and go while requests are answered."""

from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Future
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field
from queue import SimpleQueue

from edgewise.adapters.served import Adapter
from edgewise.errors import DeviceError, InputError
from edgewise.runtime.coordinator.adapters import Adapters
from edgewise.runtime.coordinator.workers import Workers
from edgewise.runtime.transport import Envelope

GoingOn = Callable[[], AbstractContextManager[None]]
GoOn = Callable[[Envelope], None]


@dataclass(frozen=True, slots=True, eq=False)
class Swap:
    """An adapter that comes by a name, in place of whatever had it; None: what has it goes. `done`
    is when requests by that name mean it, or raises InputError or DeviceError."""

    name: str
    adapter: Adapter | None
    done: "Future[None]" = field(default_factory=Future)


class Swaps:
    """`names` and `ask` are for any thread, `take` is for the host's."""

    def __init__(self, adapters: Adapters, workers: Workers, say: Callable[[str], None]) -> None:
        """`say` is told what happened."""
        self.adapters, self._workers, self._say = adapters, workers, say
        self._asked: SimpleQueue[Swap] = SimpleQueue()

    @property
    def names(self) -> Mapping[str, int]:
        return self.adapters.names

    def ask(self, name: str, adapter: Adapter | None) -> "Future[None]":
        swap = Swap(name, adapter)
        self._asked.put(swap)
        self._workers.wake()
        return swap.done

    def take(self, planned: bool, going_on: GoingOn, go_on: GoOn) -> None:
        """See to what was asked. Where no plan is in use, workers get adapters with the next one;
        else now, `going_on` without devices that are lost, while requests `go_on`."""
        while not self._asked.empty():
            swap = self._asked.get()
            if not swap.done.set_running_or_notify_cancel():
                continue
            try:
                self._see_to(swap, planned, going_on, go_on)
            except (InputError, DeviceError) as error:
                swap.done.set_exception(error)
            else:
                swap.done.set_result(None)

    def _see_to(self, swap: Swap, planned: bool, going_on: GoingOn, go_on: GoOn) -> None:
        if swap.adapter is None:
            self.adapters.remove(swap.name)
            self._say(f"adapter '{swap.name}' is served no more")
            return
        number = self.adapters.hold(swap.adapter)
        try:
            if planned:
                with going_on(), beside_requests(self._workers, go_on):
                    self.adapters.send(number)  # where a device is lost, the next plan does
        except DeviceError:
            self.adapters.drop(number)
            raise
        self.adapters.call(swap.name, number)
        self._say(f"adapter '{swap.name}' is served")


@contextmanager
def beside_requests(workers: Workers, go_on: GoOn) -> Iterator[None]:
    """Workers are asked this and that in this block, and requests `go_on`."""
    workers.wake()  # so that the next step is under way, by which others come
    with workers.meanwhile(go_on):
        yield
