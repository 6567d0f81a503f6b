"""A training as a file, from which it goes on as if nothing had happened."""

from collections.abc import Sequence
from pathlib import Path
from typing import Protocol

from safetensors import SafetensorError
from torch import Tensor

from edgewise.caches import cache_key, write_atomically
from edgewise.errors import InputError
from edgewise.models.checkpoint import Checkpoint
from edgewise.models.digests import tensor_digests
from edgewise.tensor_files import read_tensors, write_tensors
from edgewise.tuning.lessons import Lesson
from edgewise.tuning.recipe import Recipe

FILE = "checkpoint.safetensors"


class Keepable(Protocol):
    """A training, wherever its windows are."""

    def state(self) -> tuple[int, dict[str, Tensor]]: ...


def key_of(model: Checkpoint, scheme: str, recipe: Recipe, lessons: Sequence[Lesson]) -> str:
    """What a training must be of, to go on: the model and its weights, how they are kept, the
    recipe, and the data; not on which devices. Raises ModelError."""
    weights = tensor_digests(model, model.tensors())
    return cache_key(model.spec.digest, weights, scheme, recipe, tuple(lessons))


def save(training: Keepable, folder: Path, key: str) -> None:
    """It replaces the last one when it is whole. Raises InputError where there is no room."""
    done, tensors = training.state()
    metadata = {"key": key, "done": str(done)}
    if not write_atomically(folder / FILE, lambda path: write_tensors(path, tensors, metadata)):
        raise InputError(f"cannot write {folder / FILE}: give another --out, or make room")


def kept_in(folder: Path, key: str) -> tuple[int, dict[str, Tensor]] | None:
    """What a checkpoint has, for a training to go on from; None where there is none. Raises
    InputError where it is of another model, recipe or data, or broken."""
    path = folder / FILE
    if not path.exists():
        return None
    try:
        metadata, tensors = read_tensors(path)
        kept_key, done = metadata["key"], int(metadata["done"])
    except (OSError, SafetensorError, KeyError, ValueError) as error:
        raise InputError(f"{path} is no checkpoint ({error}): remove it") from None
    if kept_key != key:
        raise InputError(
            f"{path} is of another model, data or options: give another --out, or remove it"
        )
    return done, tensors
