"""A model from its files, ready to be adapted."""

from collections.abc import Callable
from pathlib import Path

import torch

from edgewise.adapters import AdapterConfig
from edgewise.adapters.files import save_adapter
from edgewise.models.checkpoint import Checkpoint
from edgewise.models.decoder import Layer
from edgewise.models.loading import Loader
from edgewise.quantization.store import Store
from edgewise.schemes import get_scheme
from edgewise.tensor_files import write_tensors
from edgewise.tuning.model import Tunable, Window

EXITS = "exits.safetensors"


def load_tunable(
    checkpoint: Checkpoint,
    scheme: str,
    adapter: AdapterConfig,
    windows: tuple[Window, ...],
    on_layer: Callable[[int], None] = lambda layer: None,
) -> Tunable:
    """All layers in one scheme, on the CPU. Raises ModelError, QuantizationError, ValueError."""
    loader = Loader(checkpoint, torch.device("cpu"), None, Store.default())
    layers = list[Layer]()
    for number in range(checkpoint.config.num_layers):
        layers.append(loader.layer(number, get_scheme(scheme), layers[0] if layers else None))
        on_layer(number)
    return Tunable(checkpoint.config, layers, adapter, windows)


def save_tuned(
    model: Tunable, folder: Path, checkpoint: Checkpoint, adapter: AdapterConfig
) -> None:
    """The adapters in PEFT's layout, and the exits beside them. Raises OSError."""
    save_adapter(
        folder, model.added, adapter, model.config, checkpoint.model, checkpoint.spec.digest
    )
    exits = {
        f"{window.first}-{window.end}.{name}": parameter.detach()
        for window, exit in zip(model.windows, model.exits, strict=True)
        for name, parameter in exit.named_parameters()
        if parameter.requires_grad
    }
    write_tensors(folder / EXITS, exits, {})
