"""A model from its files, ready to be adapted."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path

import torch
from torch import Tensor

from edgewise.adapters import AdapterConfig
from edgewise.adapters.files import EXITS, save_adapter
from edgewise.adapters.matrices import check_tunable, low_ranks
from edgewise.models.checkpoint import Checkpoint
from edgewise.models.decoder import Layer
from edgewise.models.loading import Loader
from edgewise.quantization.store import Store
from edgewise.schemes import get_scheme
from edgewise.tensor_files import write_tensors
from edgewise.tuning.model import Tunable, Window
from edgewise.tuning.recipe import Recipe


def load_tunable(
    checkpoint: Checkpoint,
    scheme: str,
    adapter: AdapterConfig,
    windows: tuple[Window, ...],
    on_layer: Callable[[int], None] = lambda layer: None,
) -> Tunable:
    """What some windows, one behind the other, need of a model, in one scheme, on the CPU. Raises
    ModelError, QuantizationError."""
    check_tunable(checkpoint.config)
    numbers = layers_of(windows, checkpoint.config.num_layers)
    layers = load_layers(checkpoint, scheme, numbers, on_layer)
    return Tunable(checkpoint.config, layers, adapter, windows)


def layers_of(windows: Sequence[Window], num_layers: int) -> tuple[int, ...]:
    """Of a model's layers those that some windows, one behind the other, need: their blocks, the
    head, and the embedding where they begin with the first block."""
    blocks = range(windows[0].first + 1, windows[-1].end + 1)
    return *([0] if blocks[0] == 1 else []), *blocks, num_layers - 1


def load_layers(
    checkpoint: Checkpoint,
    scheme: str,
    numbers: Iterable[int],
    on_layer: Callable[[int], None] = lambda layer: None,
) -> dict[int, Layer]:
    """Some of a model's layers in one scheme, on the CPU. Raises ModelError, QuantizationError."""
    loader = Loader(checkpoint, torch.device("cpu"), None, Store.default())
    layers = dict[int, Layer]()
    for number in numbers:
        layers[number] = loader.layer(number, get_scheme(scheme), layers.get(0))
        on_layer(number)
    return layers


@torch.no_grad()
def save_tuned(
    tensors: Mapping[str, Tensor], folder: Path, checkpoint: Checkpoint, recipe: Recipe
) -> None:
    """What a training made: the adapters in PEFT's layout, and beside them the exits that were
    trained. Raises OSError."""
    config, exits = checkpoint.config, dict[str, Tensor]()
    added = [low_ranks(config, number, recipe.adapter) for number in range(config.num_blocks)]
    for index, window in enumerate(recipe.windows(config.num_blocks)):
        for own in ("turn", "scale"):
            if (name := f"{index}.exit.{own}") in tensors:
                exits[f"{window.first}-{window.end}.{own}"] = tensors[name]
        for number in range(window.first, window.end):
            for part, low in added[number].items():
                for own, parameter in low.named_parameters():
                    if parameter.requires_grad:
                        parameter.copy_(tensors[f"{index}.{number}.{part}.{own}"])
    save_adapter(folder, added, recipe.adapter, config, checkpoint.model, checkpoint.spec.digest)
    if exits:
        write_tensors(folder / EXITS, exits, {})
    else:
        (folder / EXITS).unlink(missing_ok=True)
