"""Quantize a model with a method that looks at a layer's inputs, and keep the result: afterwards
loading finds every layer in the store."""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from edgewise.errors import QuantizationError
from edgewise.models.checkpoint import open_checkpoint
from edgewise.models.loading import Loader
from edgewise.quality.calibration import Calibration, text_key
from edgewise.quality.streaming import run_layer, watched
from edgewise.quantization.rounding import CALIBRATED, calibrated
from edgewise.quantization.store import Store
from edgewise.schemes import Family, get_scheme

FULL = get_scheme("fp32")
LOOKED_AT = Calibration(seed=1)  # by default: other text than losses are measured on


def full_name(model: str, method: str | None, text: Calibration = LOOKED_AT) -> str | None:
    """A rounding method's full name, which says what it looks at. Raises ModelError."""
    if method not in CALIBRATED:
        return method
    return calibrated(method, text_key(model, text)[:12])


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
    inputs is given by its full name, which says what these sequences are (rounding.calibrated).
    Raises QuantizationError, also where the store cannot be written."""
    if store is None:
        raise QuantizationError(f"no folder to keep layers by {method} in: set XDG_CACHE_HOME")
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
                if not loader.is_stored(number, scheme):
                    raise QuantizationError(
                        f"{store.folder}: layer {number} in {scheme.name} by {method} cannot be "
                        "kept there; give a folder that can be written as XDG_CACHE_HOME"
                    )
                made += 1
        on_step(f"layer {number}")
    return made


def second_moments(parts: Sequence[Tensor]) -> Tensor:
    """E[x x^T] [columns, columns] over inputs [tokens, columns] that come in parts."""
    total = sum((part.T @ part for part in parts), torch.zeros(()))
    return total / sum(len(part) for part in parts)
