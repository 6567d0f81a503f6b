"""What a plan loses on text that it was not made by: of every attempt at a promise another, of two
kinds, what the model writes and English. Measured once, then kept.
"""

import json
import math
import os
from collections.abc import Sequence
from pathlib import Path

from edgewise import __version__, kernels
from edgewise.caches import cache_folder, cache_key, is_cached, write_text_atomically
from edgewise.errors import InputError
from edgewise.models.checkpoint import open_checkpoint
from edgewise.quality.calibration import ENGLISH, Calibration, sequences, text_key
from edgewise.quality.plan_loss import Loss, full_states, num_steps, plan_losses
from edgewise.quality.rounding import Show, calibration_text, unseen
from edgewise.quality.streaming import cross_entropy
from edgewise.quantization.store import Store
from edgewise.schemes import CacheType

FIRST_SEED = 100  # far from those of other texts
SEQUENCES, LENGTH = 32, 128  # of each kind
KNOWN = 0.5


def texts(model: str, attempt: int) -> tuple[Calibration, ...]:
    """The texts of an attempt, which no other attempt has. English is none for a model that does
    not know it, such as the demo's."""
    length = min(LENGTH, open_checkpoint(model).config.max_context)
    kinds = (None, ENGLISH) if knows_english(model) else (None,)
    return tuple(Calibration(kind, SEQUENCES, length, FIRST_SEED + attempt) for kind in kinds)


def knows_english(model: str) -> bool:
    """Whether a model's loss on English is below KNOWN of what guessing among its tokens costs."""
    checkpoint = open_checkpoint(model)
    length = min(LENGTH, checkpoint.config.max_context)
    sample = Calibration(ENGLISH, 4, length)
    folder = cache_folder("losses")
    path = folder and folder / f"{cache_key('own', text_key(model, sample))}.json"
    kept = _kept(path)
    if kept is None:
        try:
            ids = sequences(model, sample)
        except InputError:  # this Python comes without such a text
            return False
        states, head = full_states(checkpoint, ids)
        kept = Loss(cross_entropy(head, states, ids))
        _keep(path, kept)
    return kept.mean < KNOWN * math.log(checkpoint.config.vocab_size)


def verify(
    model: str,
    schemes: Sequence[str],
    attempt: int,
    *,
    method: str | None = None,
    cache: CacheType = CacheType.FULL,
    store: Store | None = None,
    show: Show = unseen,
) -> list[Loss]:
    """What a plan with these schemes loses on each of the texts of an attempt."""
    losses = []
    for text in texts(model, attempt):
        path = _path(model, text, tuple(schemes), method, cache)
        loss = _kept(path)
        if loss is None:
            ids = calibration_text(model, text, show)
            with show("measuring the plan", num_steps(model)) as advance:
                (loss,) = plan_losses(
                    model,
                    [schemes],
                    ids,
                    method=method,
                    cache=cache,
                    store=store,
                    on_step=advance,
                )
            _keep(path, loss)
        losses.append(loss)
    return losses


def _path(
    model: str, text: Calibration, schemes: tuple[str, ...], method: str | None, cache: CacheType
) -> Path | None:
    """Where a loss is kept, under all that it depends on."""
    code = (__version__, kernels.instruction_set(), os.environ.get("EDGEWISE_KERNELS", ""))
    folder = cache_folder("losses")
    key = cache_key(text_key(model, text), schemes, method, str(cache), code)
    return folder and folder / f"{key}.json"


def _keep(path: Path | None, loss: Loss) -> None:
    write_text_atomically(path, json.dumps([loss.mean, loss.error, loss.count]))


def _kept(path: Path | None) -> Loss | None:
    if path is None or not is_cached(path):
        return None
    try:
        mean, error, count = json.loads(path.read_text(encoding="utf-8"))
        return Loss(float(mean), float(error), int(count))
    except (OSError, ValueError, TypeError):
        return None  # damaged: measure again
