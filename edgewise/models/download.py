"""Files of layers, received piece by piece."""

import hashlib
import os
import platform
import shutil
from collections.abc import Collection
from pathlib import Path

import psutil

from edgewise.caches import cache_key, make_room, remove
from edgewise.errors import DiskError, ModelError
from edgewise.models.layer_files import LayerFile, layer_path
from edgewise.models.pieces import PIECE_BYTES, decompressed
from edgewise.quantization.store import MOST_BYTES
from edgewise.units import format_bytes


class Download:
    """A file on its way into a folder: `offset` is the next byte wanted, `done` whether it is all
    there.

    What has come is kept in KEY.MACHINE.PROCESS.part: every process writes its own, and goes on
    with one whose process is no more. Beyond `most_bytes` in the folder, files not used for longest
    are deleted, but for those of the keys to `keep`, and their parts.
    """

    def __init__(
        self,
        folder: Path,
        file: LayerFile,
        most_bytes: int = MOST_BYTES,
        keep: Collection[str] = (),
    ) -> None:
        """Raises ModelError where the file is too large, DiskError where the folder has no room for
        it, or cannot be written."""
        self.file, self.path = file, layer_path(folder, file.key)
        self._most_bytes, self._keep = most_bytes, {file.key, *keep}
        self._content, self.offset = hashlib.sha256(), 0
        self._machine = cache_key(platform.node())[:8]
        self._part = folder / f"{file.key}.{self._machine}.{os.getpid()}.part"
        if not 0 < file.size <= most_bytes:
            raise ModelError(
                f"{self.path}: {file.size} bytes for a layer; files may have {most_bytes} together"
            )
        try:
            folder.mkdir(parents=True, exist_ok=True)
            self.done = self._is_there()
            if not self.done:
                self._go_on()
                self._check_room()
        except OSError as error:
            raise self._fails(error) from None

    def write(self, offset: int, piece: bytes, packed: bool) -> None:
        """Add the piece that begins at `offset`. Raises ModelError where it is not the next one,
        damaged, or too long; and with the last one where the whole is not what its key says: then
        nothing is left of it. Raises DiskError."""
        piece = decompressed(piece, packed)
        if self.done or offset != self.offset or offset + len(piece) > self.file.size:
            raise ModelError(
                f"{self.path}: bytes {offset} to {offset + len(piece)} came, of "
                f"{self.file.size}, while those from {self.offset} on were wanted"
            )
        try:
            with self._part.open("r+b") as part:
                part.seek(offset)
                part.write(piece)
            self._take(piece)
        except OSError as error:
            raise self._fails(error) from None

    def _is_there(self) -> bool:
        if not self.path.is_file():
            return False
        if self.path.stat().st_size != self.file.size:
            remove(self.path)
            return False
        os.utime(self.path)
        return True

    def _go_on(self) -> None:
        """Continue with the longest part that nobody is writing, or begin one."""
        parts = self.path.parent.glob(f"{self.file.key}.{self._machine}.*.part")
        left = sorted(filter(_is_left, parts), key=_size, reverse=True)
        for part in left:
            try:
                part.replace(self._part)
                break
            except OSError:  # another process was quicker
                continue
        else:
            self._part.touch()
        if _size(self._part) > self.file.size:
            os.truncate(self._part, 0)
        with self._part.open("rb") as content:
            while piece := content.read(PIECE_BYTES):
                self._take(piece)

    def _take(self, piece: bytes) -> None:
        self._content.update(piece)
        self.offset += len(piece)
        if self.offset == self.file.size:
            self._finish()

    def _finish(self) -> None:
        content = self._content.hexdigest()
        if content != self.file.key:
            remove(self._part)
            raise ModelError(f"{self.path}: what came is something else, of SHA-256 {content}")
        self._part.replace(self.path)
        self.done = True
        files = list(self.path.parent.iterdir())
        kept = {path for path in files if path.name.partition(".")[0] in self._keep}
        make_room(files, self._most_bytes, kept)

    def _check_room(self) -> None:
        free = shutil.disk_usage(self.path.parent).free
        if not self.done and free < (missing := self.file.size - self.offset):
            raise DiskError(
                f"{self.path}: {format_bytes(missing)} are to come, but the disk has "
                f"{format_bytes(free)} free"
            )

    def _fails(self, error: OSError) -> DiskError:
        return DiskError(f"{self.path}: cannot be written: {error}")


def _is_left(part: Path) -> bool:
    """Whether a part's process is this one, or is no more."""
    process = part.name.split(".")[-2]
    return process == str(os.getpid()) or not (
        process.isdecimal() and psutil.pid_exists(int(process))
    )


def _size(part: Path) -> int:
    try:
        return part.stat().st_size
    except OSError:
        return 0
