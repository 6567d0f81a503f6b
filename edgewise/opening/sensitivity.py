"""What each layer of a model loses in each scheme: measured once, then kept."""

from dataclasses import dataclass, field, replace
from pathlib import Path

from edgewise import kernels
from edgewise.caches import cache_folder, cache_key, read_cached, write_text_atomically
from edgewise.quality.calibration import Calibration, text_key
from edgewise.quality.rounding import Show, calibration_text, rounding_for, unseen
from edgewise.quality.sensitivity import MEASURING, measure_sensitivity, sensitivity_steps
from edgewise.quantization.store import Store
from edgewise.sensitivities import VERSION, Sensitivity


@dataclass(frozen=True, slots=True)
class Asked:
    """What is to be measured."""

    model: str
    schemes: tuple[str, ...]
    metric: str = "kl"
    rounding: str | None = None
    calibration: Calibration = field(default_factory=Calibration)


def cached_sensitivity(
    asked: Asked, *, fresh: bool = False, show: Show = unseen
) -> tuple[Sensitivity, Path | None, bool]:
    """A sensitivity, where it is kept (None: nowhere), and whether it was there already. It is
    measured again when the weights, the schemes, the text or the way of measuring change."""
    rounding = rounding_for(asked.model, asked.schemes, asked.rounding, show)
    asked = replace(asked, rounding=rounding)
    folder = cache_folder("sensitivities")
    path = folder and folder / f"{_key(asked)}.json"
    if not fresh and (kept := read_cached(path, Sensitivity.load)) is not None:
        return kept, path, True
    measured = _measured(asked, show)
    return measured, write_text_atomically(path, measured.to_json() + "\n"), False


def _measured(asked: Asked, show: Show) -> Sensitivity:
    ids = calibration_text(asked.model, asked.calibration, show)
    steps = sensitivity_steps(asked.model, len(asked.schemes))
    with show("measuring layers", steps) as advance:
        return measure_sensitivity(
            asked.model,
            asked.schemes,
            ids,
            asked.metric,
            method=asked.rounding,
            store=Store.default(),
            on_step=advance,
        )


def _key(asked: Asked) -> str:
    text = text_key(asked.model, asked.calibration)
    # Kernels round activations, torch does not.
    how = asked.schemes, asked.metric, asked.rounding, kernels.available()
    return cache_key(VERSION, MEASURING, text, *how)
