"""Quantize a model with a method that looks at a layer's inputs, and keep the result: afterwards
loading finds every layer in the store."""

from collections.abc import Callable, Mapping, Sequence

import torch
from torch import Tensor

from edgewise.errors import QuantizationError
from edgewise.models.checkpoint import open_checkpoint
from edgewise.models.loading import Loader
from edgewise.quality.streaming import run_observed
from edgewise.quantization.rounding import sees_pairs
from edgewise.quantization.store import Store
from edgewise.schemes import Family, get_scheme

FULL = get_scheme("fp32")
LOOKED_UP = 0.3  # what looking rows up counts beside the head (dev/LOG.md, 2026-11-26)


def prepare(
    model: str,
    schemes: Sequence[Sequence[str]],
    method: str,
    ids: Tensor,
    store: Store | None,
    on_step: Callable[[str], None] = lambda step: None,
) -> int:
    """Quantize layer i into each of schemes[i] by `method`, given its inputs at full precision on
    sequences ids [B, T]; returns how many were made (those that were there are left). What a
    layer becomes does not depend on the others, so plans can share it. A method that looks at
    inputs is given by its full name, which says what these sequences are (rounding/__init__.py).
    Raises QuantizationError, also where the store cannot be written."""
    if store is None:
        raise QuantizationError(f"no folder to keep layers by {method} in: set XDG_CACHE_HOME")
    checkpoint = open_checkpoint(model)
    loader, states, made = Loader(checkpoint, torch.device("cpu"), method, store), ids, 0
    config = checkpoint.config
    for number in range(config.num_layers):
        moments = None
        if sees_pairs(method):
            full = loader.layer(number, FULL)
            states, moments = run_observed(config, number, full, states, pairs=True)
        waits = config.tied and sees_pairs(method)  # the embedding for its head
        if moments and waits and number == config.num_layers - 1:
            moments = {"out": _looked_up(moments["out"])}
            made += _make(loader, store, 0, schemes[0], {"tokens": moments["out"]})
        if number > 0 or not waits:
            made += _make(loader, store, number, schemes[number], moments)
        on_step(f"layer {number}")
    return made


def _looked_up(moments: Tensor) -> Tensor:
    """What the matrix of a tied head is multiplied with, from the head's moments [H, H]: as an
    embedding's it is looked up as well, which weighs all columns alike."""
    mean = float(moments.diagonal().mean())
    return moments + LOOKED_UP * mean * torch.eye(len(moments), device=moments.device)


def _make(
    loader: Loader,
    store: Store,
    number: int,
    schemes: Sequence[str],
    moments: Mapping[str, Tensor] | None,
) -> int:
    """Keep a layer in each of these schemes; how many were not there yet."""
    made = 0
    for scheme in map(get_scheme, schemes):
        if scheme.family is Family.GROUPED and not loader.is_stored(number, scheme):
            loader.layer(number, scheme, moments=moments or None)  # a table has none of its own
            if not loader.is_stored(number, scheme):
                raise QuantizationError(
                    f"{store.folder}: layer {number} in {scheme.name} by "
                    f"{loader.method} cannot be kept there; give a folder that can be written as "
                    "XDG_CACHE_HOME"
                )
            made += 1
    return made
