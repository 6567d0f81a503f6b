"""Emulated devices on one machine compute in turns.

Together they would slow each other down, by half and more, as they share a memory; devices of their
own do not. While one computes the others wait, for as long as being slower than the machine leaves
them time: an emulated device that takes four times as long has three quarters of it to spare.
"""

import fcntl
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

_LOOK_SECONDS = 5e-5


class Turns:
    """A lock of all the workers that have the same file."""

    def __init__(self, file: Path) -> None:
        self._file = os.open(file, os.O_RDWR | os.O_CREAT, 0o600)

    @contextmanager
    def one(self, until: float) -> Iterator[None]:
        """Hold the turn, or go ahead without it once it is `until` on `time.monotonic`: whoever has
        it may have stopped."""
        mine = self._take()
        while not mine and time.monotonic() < until:
            time.sleep(_LOOK_SECONDS)
            mine = self._take()
        try:
            yield
        finally:
            if mine:
                fcntl.flock(self._file, fcntl.LOCK_UN)

    def _take(self) -> bool:
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        return True

    def close(self) -> None:
        os.close(self._file)
