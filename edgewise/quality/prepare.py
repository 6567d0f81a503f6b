"""Quantize a model with a method that looks at a layer's inputs, and keep the result: afterwards
loading finds every layer in the store."""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from edgewise.models.checkpoint import open_checkpoint
from edgewise.models.loading import Loader
from edgewise.quality.streaming import run_layer, watched
from edgewise.quantization.store import Store
from edgewise.schemes import Family, get_scheme

FULL = get_scheme("fp32")


def prepare(
    model: str,
    schemes: Sequence[Sequence[str]],
    method: str,
    ids: Tensor,
    store: Store,
    on_step: Callable[[str], None] = lambda what: None,
) -> int:
    """Quantize layer i into each of schemes[i] by `method`, given its inputs at full precision on
    sequences ids [B, T]; returns how many were made (those that were there are left). What a
    layer becomes does not depend on the others, so plans can share it. Raises QuantizationError."""
    checkpoint = open_checkpoint(model)
    loader, x, made = Loader(checkpoint, torch.device("cpu"), method, store), ids, 0
    last = checkpoint.config.num_layers - 1
    for number in range(last + 1):
        full = loader.layer(number, FULL)
        with watched(full) as seen:
            x = run_layer(checkpoint.config, number, full, x)
        moments = {name: second_moments(parts) for name, parts in seen.items() if parts}
        for scheme in map(get_scheme, schemes[number]):
            if scheme.family is Family.GROUPED and not loader.is_stored(number, scheme):
                loader.layer(number, scheme, moments=moments)
                made += 1
        on_step(f"layer {number}")
    return made


def second_moments(parts: Sequence[Tensor]) -> Tensor:
    """E[x x^T] [columns, columns] over inputs [tokens, columns] that come in parts."""
    total = sum((part.T @ part for part in parts), torch.zeros(()))
    return total / sum(len(part) for part in parts)
