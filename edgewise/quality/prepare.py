"""Quantize a model with a method that looks at a layer's inputs, and keep the result: afterwards
loading finds every layer in the store."""

from collections.abc import Callable, Sequence

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


def prepare(
    model: str,
    schemes: Sequence[Sequence[str]],
    method: str,
    ids: Tensor,
    store: Store | None,
    on_step: Callable[[str], None] = lambda what: None,
) -> int:
    """Quantize layer i into each of schemes[i] by `method`, given its inputs at full precision on
    sequences ids [B, T]; returns how many were made (those that were there are left). What a
    layer becomes does not depend on the others, so plans can share it. A method that looks at
    inputs is given by its full name, which says what these sequences are (rounding/__init__.py).
    Raises QuantizationError, also where the store cannot be written."""
    if store is None:
        raise QuantizationError(f"no folder to keep layers by {method} in: set XDG_CACHE_HOME")
    checkpoint = open_checkpoint(model)
    loader, x, made = Loader(checkpoint, torch.device("cpu"), method, store), ids, 0
    last = checkpoint.config.num_layers - 1
    for number in range(last + 1):
        moments = None
        if sees_pairs(method):
            full = loader.layer(number, FULL)
            x, moments = run_observed(checkpoint.config, number, full, x, pairs=True)
        for scheme in map(get_scheme, schemes[number]):
            if scheme.family is Family.GROUPED and not loader.is_stored(number, scheme):
                loader.layer(number, scheme, moments=moments or None)  # a table has none of its own
                if not loader.is_stored(number, scheme):
                    raise QuantizationError(
                        f"{store.folder}: layer {number} in {scheme.name} by {method} cannot be "
                        "kept there; give a folder that can be written as XDG_CACHE_HOME"
                    )
                made += 1
        on_step(f"layer {number}")
    return made
