"""A training as a file, from which it goes on as if nothing had happened."""

from collections.abc import Iterator, Sequence
from pathlib import Path

import torch
from safetensors import SafetensorError
from torch import Tensor

from edgewise.caches import cache_key, write_atomically
from edgewise.errors import InputError
from edgewise.models.checkpoint import Checkpoint
from edgewise.models.digests import tensor_digests
from edgewise.tensor_files import read_tensors, write_tensors
from edgewise.tuning.lessons import Lesson
from edgewise.tuning.model import Window
from edgewise.tuning.recipe import Recipe
from edgewise.tuning.training import Training

FILE = "checkpoint.safetensors"
MOMENTS = ("exp_avg", "exp_avg_sq", "step")


def key_of(model: Checkpoint, scheme: str, recipe: Recipe, lessons: Sequence[Lesson]) -> str:
    """What a training must be of, to go on: the model and its weights, how they are kept, the
    recipe, and the data. Raises ModelError."""
    weights = tensor_digests(model, model.tensors())
    return cache_key(model.spec.digest, weights, scheme, recipe, tuple(lessons))


def save(training: Training, folder: Path, key: str) -> None:
    """It replaces the last one when it is whole. Raises InputError where there is no room."""
    tensors, metadata = _tensors(training), {"key": key, "done": str(training.done)}
    if not write_atomically(folder / FILE, lambda path: write_tensors(path, tensors, metadata)):
        raise InputError(f"cannot write {folder / FILE}: give another --out, or make room")


def restore(training: Training, folder: Path, key: str) -> bool:
    """Go on where a checkpoint is; False where there is none. Raises InputError where it is of
    another model, recipe or data, or broken."""
    path = folder / FILE
    if not path.exists():
        return False
    try:
        metadata, tensors = read_tensors(path)
        if metadata.get("key") != key:
            raise InputError(
                f"{path} is of another model, data or options: give another --out, or remove it"
            )
        _take(training, tensors)
        training.done = int(metadata["done"])
    except (OSError, SafetensorError, KeyError, ValueError) as error:
        raise InputError(f"{path} is no checkpoint ({error}): remove it") from None
    return True


def _tensors(training: Training) -> dict[str, Tensor]:
    tensors = dict[str, Tensor]()
    for index, (window, optimizer) in enumerate(_windows(training)):
        for number, parameter in enumerate(training.model.trained(window)):
            tensors[f"{index}.{number}"] = parameter.detach()
            for moment in MOMENTS:
                if parameter in optimizer.state:
                    tensors[f"{index}.{number}.{moment}"] = optimizer.state[parameter][moment]
    return tensors


@torch.no_grad()
def _take(training: Training, tensors: dict[str, Tensor]) -> None:
    for index, (window, optimizer) in enumerate(_windows(training)):
        for number, parameter in enumerate(training.model.trained(window)):
            parameter.copy_(tensors[f"{index}.{number}"])
            names = {moment: f"{index}.{number}.{moment}" for moment in MOMENTS}
            if names["step"] in tensors:
                optimizer.state[parameter] = {k: tensors[name] for k, name in names.items()}


def _windows(training: Training) -> Iterator[tuple[Window, torch.optim.Optimizer]]:
    return zip(training.model.windows, training.optimizers, strict=True)
