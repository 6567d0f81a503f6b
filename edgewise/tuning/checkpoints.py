"""A training as a file, from which it goes on as if nothing had happened."""

import hashlib
import json
import os
from dataclasses import asdict
from pathlib import Path

import safetensors.torch
import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from edgewise.errors import InputError
from edgewise.tuning.lessons import Lesson
from edgewise.tuning.recipe import Recipe
from edgewise.tuning.training import Training

FILE = "checkpoint.safetensors"
MOMENTS = ("exp_avg", "exp_avg_sq", "step")


def key_of(model: str, recipe: Recipe, lessons: list[Lesson]) -> str:
    """What a checkpoint must have been made for: the model's digest, the recipe, and the data."""
    said = json.dumps([model, asdict(recipe), [asdict(lesson) for lesson in lessons]])
    return hashlib.sha256(said.encode()).hexdigest()


def save(training: Training, folder: Path, key: str) -> None:
    """Written beside the last one, which it then replaces."""
    folder.mkdir(parents=True, exist_ok=True)
    beside = folder / f"{FILE}.new"
    metadata = {"key": key, "done": str(training.done)}
    safetensors.torch.save_file(_tensors(training), beside, metadata)
    os.replace(beside, folder / FILE)


def restore(training: Training, folder: Path, key: str) -> bool:
    """Go on where a checkpoint is; False where there is none. Raises InputError where it is of
    another model, recipe or data, or broken."""
    path = folder / FILE
    if not path.exists():
        return False
    try:
        with safe_open(path, "pt") as file:
            metadata = file.metadata() or {}
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
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
    return {name: tensor.contiguous() for name, tensor in tensors.items()}


@torch.no_grad()
def _take(training: Training, tensors: dict[str, Tensor]) -> None:
    for index, (window, optimizer) in enumerate(_windows(training)):
        for number, parameter in enumerate(training.model.trained(window)):
            parameter.copy_(tensors[f"{index}.{number}"])
            names = {moment: f"{index}.{number}.{moment}" for moment in MOMENTS}
            if names["step"] in tensors:
                optimizer.state[parameter] = {k: tensors[name] for k, name in names.items()}


def _windows(training: Training):  # type: ignore[no-untyped-def]
    return zip(training.model.windows, training.optimizers, strict=True)
