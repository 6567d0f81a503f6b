"""What a plan loses on text that it was not made by, for every attempt at a promise another.
Measured once, then kept.

The text is what the model writes at temperature 1, which is less predictable than what people
write: SmolLM2-135M lost more on it (in 4 bits, plainly rounded: 0.47 nats per token, on Python's
documentation 0.40, on a handbook, fortunes and a licence 0.34; likewise in 6 bits).
"""

import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path

from edgewise import __version__, kernels
from edgewise.caches import cache_folder, cache_key, is_cached, write_text_atomically
from edgewise.models.checkpoint import open_checkpoint
from edgewise.quality.calibration import Calibration, text_key
from edgewise.quality.plan_loss import Loss, checkpoint_loss, plan_loss_steps, plan_losses
from edgewise.quality.rounding import Show, calibration_text, unseen
from edgewise.quantization.store import Store
from edgewise.schemes import CacheType, Wire

FIRST_SEED = 100  # far from those of other texts
SEQUENCES, LENGTH = 32, 128


def text_of(model: str, attempt: int) -> Calibration:
    """The text of an attempt, which no other attempt has."""
    length = min(LENGTH, open_checkpoint(model).config.max_context)
    return Calibration(None, SEQUENCES, length, FIRST_SEED + attempt)


def verify(
    model: str,
    schemes: Sequence[str],
    attempt: int,
    *,
    method: str | None = None,
    cache: CacheType = CacheType.FULL,
    rounded: Mapping[int, Wire] | None = None,
    store: Store | None = None,
    show: Show = unseen,
) -> Loss:
    """What a plan with these schemes loses on the text of an attempt; `rounded`: Plan.rounded."""
    text, asked = text_of(model, attempt), (tuple(schemes), method, str(cache))
    path = _path(text_key(model, text), *asked, *(rounded or {}).items())
    kept = _kept(path)
    if kept is not None:
        return kept
    ids = calibration_text(model, text, show)
    with show("measuring the plan", plan_loss_steps(model)) as advance:
        (loss,) = plan_losses(
            model,
            [schemes],
            ids,
            method=method,
            cache=cache,
            rounded=rounded,
            store=store,
            on_step=advance,
        )
    write_text_atomically(path, json.dumps([loss.mean, loss.error, loss.count]))
    return loss


def verify_checkpoint(model: str, other: str, show: Show = unseen) -> Loss:
    """What another checkpoint loses beside a model, on text that the model wrote. Raises
    InputError where they have other tokens."""
    text = text_of(model, 0)
    path = _path("checkpoint", text_key(model, text), text_key(other, text))
    kept = _kept(path)
    if kept is not None:
        return kept
    ids = calibration_text(model, text, show)
    steps = sum(open_checkpoint(name).config.num_layers - 1 for name in (model, other))
    with show(f"comparing {other}", steps) as advance:
        loss = checkpoint_loss(model, other, ids, advance)
    write_text_atomically(path, json.dumps([loss.mean, loss.error, loss.count]))
    return loss


def _path(*asked: object) -> Path | None:
    """Where a loss is kept, under all that it depends on."""
    code = (__version__, kernels.instruction_set(), os.environ.get("EDGEWISE_KERNELS", ""))
    folder = cache_folder("losses")
    key = cache_key(*asked, code)
    return folder and folder / f"{key}.json"


def _kept(path: Path | None) -> Loss | None:
    if path is None or not is_cached(path):
        return None
    try:
        mean, error, count = json.loads(path.read_text(encoding="utf-8"))
        return Loss(float(mean), float(error), int(count))
    except (OSError, ValueError, TypeError):
        return None  # damaged: measure again
