"""Where workers come from."""

from collections.abc import Mapping
from concurrent.futures import Future
from typing import Protocol

from edgewise.runtime.settings import Settings

STOP_SECONDS = 2.0


class Launcher(Protocol):
    """Starts and ends the processes of some devices' workers. When one ends, however it does, the
    launcher posts messages.Ended to whoever it works for."""

    def start(self, settings: Settings) -> Future[str]:
        """Begin to start a worker, which says Ready when it is; its public key, "" for none, is
        known later where it is made elsewhere. Raises DeviceError, here or there, where it cannot
        start."""
        ...

    def prepare(self) -> None:
        """Have the next start be quick, where a launcher can: a spare process's memory is what it
        costs."""
        ...

    @property
    def process_ids(self) -> Mapping[str, int]:
        """The operating system's number of each worker on this machine, by device."""
        ...

    def end(self, device: str) -> None:
        """End a worker at once, whatever it does. Unknown ones are ignored."""
        ...

    def close(self) -> None:
        """End all, those that were told to stop within a moment by themselves. May be called
        twice."""
        ...
