"""Layers on their way to devices that have no copy of the model."""

import time

import torch

from edgewise.models.layer_store import LayerFiles
from edgewise.runtime import messages
from edgewise.runtime.coordinator.workers import Workers

CLOCK = 1e-3  # seconds that every clock tells apart from none
FIRST_PACE = 1.25e8  # bytes a second that a link is taken to carry before any were seen: a gigabit


class PieceSender:
    """Sends pieces of layers' files to whoever asks, compressed where that pays over the link."""

    def __init__(self, workers: Workers) -> None:
        self._workers = workers
        self._paces: dict[str, float] = {}  # bytes a second that the last pieces came at
        self._sent: dict[str, tuple[float, int]] = {}  # when the last piece left, and its bytes

    def send(self, device: str, fetch: messages.Fetch, files: LayerFiles) -> None:
        """A device asks for a piece when it has written the one before. Raises ModelError,
        DiskError."""
        if fetch.offset and device in self._sent:
            began, size = self._sent[device]
            self._paces[device] = size / max(time.monotonic() - began, CLOCK)
        pace = self._paces.get(device, FIRST_PACE)
        content, packed = files.piece(fetch.key, fetch.offset, bytes_per_second=pace)
        piece = messages.Piece(fetch.key, fetch.offset, packed)
        self._sent[device] = time.monotonic(), len(content)
        self._workers.send(device, piece, torch.frombuffer(bytearray(content), dtype=torch.uint8))
