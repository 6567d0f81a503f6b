"""Files of layers that a worker without a copy of the model asks for."""

from collections.abc import Callable, Sequence

from torch import Tensor

from edgewise.models.download import Download
from edgewise.models.layer_files import LayerFile, layer_folder
from edgewise.runtime import messages
from edgewise.runtime.messages import Message


class Fetching:
    """One file after the other, one piece after the other, until all that were wanted last are in
    this user's folder."""

    def __init__(self, report: Callable[[Message], None]) -> None:
        self._report = report
        self._downloads: list[Download] = []
        self._then: Callable[[], None] | None = None  # once everything is there

    def begin(self, files: Sequence[LayerFile], then: Callable[[], None]) -> None:
        """Ask for what is missing of these files, and for nothing of before; `then` is called once
        they are there, which may be now. Raises ModelError, DiskError."""
        self._downloads, self._then = [], None
        if files:
            folder = layer_folder()
            wanted = {file.key: file for file in files}  # equal layers are one file
            self._downloads = [Download(folder, x, keep=wanted) for x in wanted.values()]
        self._then = then
        self._go_on()

    def receive(self, piece: messages.Piece, content: Tensor | None) -> None:
        """A piece that was asked for. Raises ModelError where it is not what it should be, and
        DiskError."""
        download = next((x for x in self._downloads if x.file.key == piece.key), None)
        if download is not None and content is not None and not download.done:
            download.write(piece.offset, content.numpy().tobytes(), piece.packed)
            self._go_on()

    def _go_on(self) -> None:
        missing = next((x for x in self._downloads if not x.done), None)
        if missing is not None:
            self._report(messages.Fetch(missing.file.key, missing.offset))
        elif self._then is not None:
            then, self._then = self._then, None
            then()
