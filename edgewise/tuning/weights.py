"""Where a device that adapts a model has its layers from: its own copy, or files sent to it."""

from collections.abc import Sequence
from functools import cached_property

import msgspec
import torch

from edgewise.models.checkpoint import Checkpoint, open_checkpoint
from edgewise.models.config import DecoderConfig
from edgewise.models.decoder import Layer
from edgewise.models.layer_files import LayerFile, layer_folder, layer_from_file
from edgewise.models.layer_store import LayerFiles
from edgewise.models.shape import ModelShape
from edgewise.runtime.coordinator.sending import PieceSender
from edgewise.runtime.coordinator.workers import Workers
from edgewise.runtime.messages import Fetch
from edgewise.schemes import get_scheme
from edgewise.tuning.loading import load_layers


class Weights(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """These `layers` of a model in one scheme: from the device's own copy of the `model`; where
    that is "", from `files`, which it asks for, of a model of this `shape` (ModelShape, as
    JSON)."""

    scheme: str
    layers: tuple[int, ...]
    model: str = ""
    shape: str = ""
    files: tuple[LayerFile, ...] = ()

    def load(self) -> tuple[DecoderConfig, dict[int, Layer]]:
        """The model's configuration, and the layers by number, on the CPU; files must be there.
        Raises ModelError, QuantizationError."""
        if self.model:
            checkpoint = open_checkpoint(self.model)
            return checkpoint.config, load_layers(checkpoint, self.scheme, self.layers)
        shape, scheme = ModelShape.from_json(self.shape), get_scheme(self.scheme)
        folder, cpu, layers = layer_folder(), torch.device("cpu"), dict[int, Layer]()
        for file in self.files:
            layers[file.layer] = layer_from_file(shape, file, scheme, folder, cpu, layers.get(0))
        return shape.config, layers


class WeightSource:
    """Says to devices what layers they are to have, and sends them to those without the model."""

    def __init__(self, workers: Workers, model: str, scheme: str) -> None:
        self._workers, self._model, self._scheme = workers, model, scheme
        self._pieces = PieceSender(workers)

    @cached_property
    def _checkpoint(self) -> Checkpoint:
        return open_checkpoint(self._model)

    @cached_property
    def _files(self) -> LayerFiles:  # which need a folder, as not every user has
        return LayerFiles(self._checkpoint)

    def of(self, device: str, layers: Sequence[int]) -> Weights:
        """What a device is told; without the model, it gets these layers alone. Raises ModelError,
        QuantizationError."""
        numbers = tuple(layers)
        if not self._workers.is_remote(device):
            return Weights(self._scheme, numbers, self._model)
        config = self._checkpoint.config
        last, tied = config.num_layers - 1, config.tied and 0 in numbers
        files = (
            self._files.file(number, self._scheme, shared=tied and number == last)
            for number in numbers
        )
        shape = ModelShape.of(self._checkpoint).to_json()
        return Weights(self._scheme, numbers, "", shape, tuple(files))

    def send_piece(self, device: str, fetch: Fetch) -> None:
        """Raises ModelError where it asks for something else than it was told of."""
        self._pieces.send(device, fetch, self._files)
