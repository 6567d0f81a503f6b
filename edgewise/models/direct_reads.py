"""Files read past the system's page cache: what is read for every step would evict what is not."""

import contextlib
import mmap
import os
import shutil
import tempfile
import threading
import time
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from statistics import median

from edgewise.errors import DiskError

PIECE_BYTES = 2**24  # read at once: several of the requests that a kernel makes of it
ALIGNMENT = 4096  # of what direct reads read, and where to
TRIAL_BYTES, TRIAL_PART, TRIALS = 2**26, 2**20, 5  # that a disk is timed with
# Not on every system, and not on every file system.
_DIRECT = getattr(os, "O_DIRECT", 0)
_BINARY = getattr(os, "O_BINARY", 0)


def aligned_bytes(count: int) -> int:
    return -(-count // ALIGNMENT) * ALIGNMENT


def anonymous_memory(count: int) -> mmap.mmap:
    """So many bytes to read into: where a system can tell, the process's own, and in huge pages,
    into which direct reads are up to twice as fast, for a quarter of a processor's time."""
    own = {"flags": mmap.MAP_PRIVATE} if hasattr(mmap, "MAP_PRIVATE") else {}
    memory = mmap.mmap(-1, count, **own)
    if hasattr(mmap, "MADV_HUGEPAGE"):
        with contextlib.suppress(OSError):  # a kernel without them
            memory.madvise(mmap.MADV_HUGEPAGE)
    return memory


class ReadPace:
    """Reads no faster than so many bytes a second, as a device's disk is said to be."""

    def __init__(self, bytes_per_second: float) -> None:
        self._rate, self._due = bytes_per_second, 0.0

    def begin(self) -> None:
        """What was not read before now is no credit."""
        self._due = max(self._due, time.monotonic())

    def wait(self, count: int, end: threading.Event) -> None:
        """Until so many bytes more may have been read, or it is to end."""
        self._due += count / self._rate
        end.wait(max(self._due - time.monotonic(), 0.0))


class DirectFile:
    """A file that is read whole, from its beginning, as often as wanted, and is to stay as it is.
    Every method raises DiskError, which names it."""

    def __init__(self, path: Path) -> None:
        self.path = path
        try:
            number, self._direct = _opened(path)
            self._file = os.fdopen(number, "rb", buffering=0)
            self._known = self._stamp()
        except OSError as error:
            raise DiskError(f"{path}: cannot be opened: {error.strerror}") from None

    @property
    def size(self) -> int:
        return self._known[0]

    def read(self, memory: mmap.mmap) -> Iterator[int]:
        """Into memory of at least `aligned_bytes(size)`, piece by piece; gives how many bytes each
        had. Whoever does not take all has not read the file. At its end the file is what it was
        when it was opened."""
        at = 0
        with memoryview(memory) as whole:
            while at < self.size:
                piece = whole[at : min(at + PIECE_BYTES, aligned_bytes(self.size))]
                count = self._read_piece(at, piece)
                at += count
                yield count
        if self._now() != self._known:
            raise DiskError(f"{self.path}: has changed since it was loaded; load the plan again")

    def _read_piece(self, at: int, piece: memoryview) -> int:
        try:
            self._file.seek(at)
            count = self._file.readinto(piece)
            if not self._direct and hasattr(os, "posix_fadvise"):  # at least let go of at once
                os.posix_fadvise(self._file.fileno(), at, len(piece), os.POSIX_FADV_DONTNEED)
        except OSError as error:
            raise DiskError(
                f"{self.path}: cannot be read from byte {at} on: {error.strerror}"
            ) from None
        if not count:
            raise DiskError(f"{self.path}: ends at byte {at} of {self.size}; load the plan again")
        return min(count, self.size - at)

    def _stamp(self) -> tuple[int, int]:
        """What changes where the content does. A file that is removed stays readable here."""
        stat = os.fstat(self._file.fileno())
        return stat.st_size, stat.st_mtime_ns

    def _now(self) -> tuple[int, int]:
        try:
            return self._stamp()
        except OSError as error:
            raise DiskError(f"{self.path}: cannot be looked at: {error.strerror}") from None

    def close(self) -> None:
        self._file.close()


def _opened(path: Path) -> tuple[int, bool]:
    """A descriptor, and whether reads go past the page cache: not all file systems can do that.
    Raises OSError."""
    if _DIRECT:
        with contextlib.suppress(OSError):
            return os.open(path, os.O_RDONLY | _DIRECT), True
    return os.open(path, os.O_RDONLY | _BINARY), False


@cache
def disk_rate(folder: Path) -> float:
    """Bytes a second that files of a folder are read at: of one that is written there for it, once
    in a process, in half of the room at most; 0 where that is too little to tell. Raises
    DiskError."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        parts = min(TRIAL_BYTES, shutil.disk_usage(folder).free // 2) // TRIAL_PART
        if not parts:
            return 0.0
        with tempfile.NamedTemporaryFile(dir=folder, suffix=".part") as file:
            for _ in range(parts):
                file.write(os.urandom(TRIAL_PART))
            file.flush()
            os.fsync(file.fileno())
            memory = anonymous_memory(parts * TRIAL_PART)
            with contextlib.closing(DirectFile(Path(file.name))) as trial:
                _seconds(trial, memory)  # which takes the memory from the system, too
                return trial.size / median(_seconds(trial, memory) for _ in range(TRIALS))
    except OSError as error:
        raise DiskError(f"{folder}: its disk cannot be timed: {error}") from None


def _seconds(file: DirectFile, memory: mmap.mmap) -> float:
    began = time.perf_counter()
    for _ in file.read(memory):
        pass
    return time.perf_counter() - began
