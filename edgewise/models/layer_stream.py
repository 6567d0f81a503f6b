"""Layers that live on disk: read into one of two buffers while the layer in the other computes.

The layers take turns in the buffers, in their order, over and over: layer i of the stream always
lies in buffer i mod 2, so what points at its tensors is made once (FlexGen, arXiv 2303.06865,
section 3; Edge-LLM, arXiv 2406.15758, equation 3: a unit takes the longest of its transfers and
computation).
"""

import contextlib
import mmap
import threading
import time
from collections.abc import Iterator, Sequence

from edgewise.errors import DiskError
from edgewise.models.direct_reads import DirectFile, ReadPace, aligned_bytes, anonymous_memory
from edgewise.streaming import BUFFERS

STILL_SECONDS = 30.0  # without a piece read, after which a disk is taken to be gone
END_SECONDS = 5.0  # that the reading thread is waited for


class LayerStream:
    """Of the layers in `files`, one each, read no faster than `bytes_per_second`. A thread reads
    from the first `there` on until `close`. One thread at a time may ask."""

    def __init__(self, files: Sequence[DirectFile], bytes_per_second: float) -> None:
        self._files, self._pace = list(files), ReadPace(bytes_per_second)
        size = aligned_bytes(max(file.size for file in files))
        self.buffers = [anonymous_memory(size) for _ in range(min(BUFFERS, len(files)))]
        self._waited = 0.0
        self._loaded: list[int | None] = [None] * len(self.buffers)
        self._free = [True] * len(self.buffers)  # to be read into: its layer has computed
        self._next, self._turn = 0, 0  # to be read; rises where that is another than planned
        self._error: DiskError | None = None
        self._heard = time.monotonic()
        self._change, self._end = threading.Condition(), threading.Event()
        self._thread: threading.Thread | None = None

    @property
    def bytes(self) -> int:
        """That the buffers take."""
        return sum(map(len, self.buffers))

    def buffer(self, number: int) -> mmap.mmap:
        """Where layer `number` of the stream lies when it is there."""
        return self.buffers[number % len(self.buffers)]

    def waited(self) -> float:
        """Seconds that layers were waited for since this was asked last."""
        waited, self._waited = self._waited, 0.0
        return waited

    def read_now(self, number: int) -> None:
        """Read a layer before the stream is used, at the disk's own speed. Raises DiskError."""
        for _ in self._files[number].read(self.buffer(number)):
            pass

    @contextlib.contextmanager
    def there(self, number: int) -> Iterator[None]:
        """Layer `number` of the stream lies in its buffer for so long. Raises DiskError where it
        cannot be read, or nothing is for STILL_SECONDS."""
        place = number % len(self.buffers)
        with self._change:
            self._start()
            if self._loaded[place] != number:
                self._call_for(number)
                began = time.monotonic()
                self._wait_for(place, number)
                self._waited += time.monotonic() - began
            self._free[place] = False
        try:
            yield
        finally:
            with self._change:
                self._free[place] = True
                self._change.notify_all()

    def _start(self) -> None:
        if self._thread is None:
            self._thread = threading.Thread(target=self._run, name="layers from disk", daemon=True)
            self._thread.start()

    def _call_for(self, number: int) -> None:
        """Nothing computes now, so all buffers may be read into. A step that was given up, or goes
        through some layers twice, asks for another layer than the one that was to be read."""
        if self._next != number:
            self._next, self._turn = number, self._turn + 1
        self._free = [True] * len(self.buffers)
        self._heard = time.monotonic()
        self._change.notify_all()

    def _wait_for(self, place: int, number: int) -> None:
        while self._loaded[place] != number:
            if self._error is not None:
                raise self._error
            left = self._heard + STILL_SECONDS - time.monotonic()
            if left <= 0 or self._end.is_set():
                path = self._files[number].path
                raise DiskError(f"{path}: nothing could be read for {STILL_SECONDS:g} s")
            self._change.wait(left)

    # The reading thread

    def _run(self) -> None:
        try:
            while self._step():
                pass
        except DiskError as error:
            self._fail(error)
        except Exception as error:  # a thread's boundary: whoever waits must hear of it
            self._fail(DiskError(f"{self._files[self._next].path}: {error!r}"))

    def _fail(self, error: DiskError) -> None:
        with self._change:
            self._error = error
            self._change.notify_all()

    def _step(self) -> bool:
        """Read the next layer as soon as its buffer is free; False at the end."""
        with self._change:
            self._change.wait_for(lambda: self._end.is_set() or self._free[self._place])
            if self._end.is_set():
                return False
            number, place, turn = self._next, self._place, self._turn
            if self._loaded[place] != number:
                self._loaded[place] = None
        if self._loaded[place] is None and not self._read(number, turn):
            return True
        with self._change:
            if turn == self._turn:
                self._loaded[place], self._free[place] = number, False
                self._next = (number + 1) % len(self._files)
                self._change.notify_all()
        return True

    @property
    def _place(self) -> int:
        return self._next % len(self.buffers)

    def _read(self, number: int, turn: int) -> bool:
        """False where another layer is wanted meanwhile, or none any more."""
        self._pace.begin()
        for count in self._files[number].read(self.buffer(number)):
            self._pace.wait(count, self._end)
            self._heard = time.monotonic()
            if self._end.is_set() or turn != self._turn:
                return False
        return True

    def close(self) -> None:
        """End the thread; what lies in the buffers stays while it is pointed at."""
        self._end.set()
        with self._change:
            self._change.notify_all()
        if self._thread is not None:
            self._thread.join(END_SECONDS)
        for file in self._files:
            file.close()
