"""`edgewise sensitivity`: what each layer loses in each scheme; measured once, then kept."""

import json
from dataclasses import dataclass, field, replace
from pathlib import Path

from rich.markup import escape
from rich.table import Table

from edgewise import kernels
from edgewise.caches import cache_folder, cache_key, is_cached, remove, write_text_atomically
from edgewise.cli.commands import SensitivityOptions
from edgewise.cli.options import split_names
from edgewise.cli.terminal import bars, console, print_json, progress
from edgewise.errors import ProfileError
from edgewise.quality.calibration import Calibration, text_key
from edgewise.quality.rounding import calibration_text, rounding_for
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


def run_sensitivity(options: SensitivityOptions) -> None:
    """Measure, or take from the cache, and print."""
    text = Calibration(options.text, options.sequences, options.length, options.seed)
    schemes = split_names(options.schemes)
    asked = Asked(options.model, schemes, options.metric, options.rounding, text)
    sensitivity, path, cached = cached_sensitivity(
        asked, fresh=options.fresh, quiet=options.as_json
    )
    if options.out is not None:
        options.out.write_text(sensitivity.to_json() + "\n", encoding="utf-8")
    screen = console(options.as_json)
    screen.print(sensitivity_table(sensitivity))
    screen.print(f"({'from the cache' if cached else 'measured now'}: {path or 'not kept'})")
    if options.as_json:
        document = {"sensitivity": json.loads(sensitivity.to_json()), "cached": cached}
        print_json({**document, "path": path and str(path)})


def cached_sensitivity(
    asked: Asked, *, fresh: bool = False, quiet: bool = False
) -> tuple[Sensitivity, Path | None, bool]:
    """A sensitivity, where it is kept (None: nowhere), and whether it was there already. It is
    measured again when the weights, the schemes, the text or the way of measuring change."""
    rounding = rounding_for(asked.model, asked.schemes, asked.rounding, bars(quiet))
    asked = replace(asked, rounding=rounding)
    folder = cache_folder("sensitivities")
    path = folder and folder / f"{_key(asked)}.json"
    if not fresh and path is not None and is_cached(path):
        try:
            return Sensitivity.load(path), path, True
        except ProfileError:
            remove(path)  # written by half, or by hand: measure again
    measured = _measured(asked, quiet)
    return measured, write_text_atomically(path, measured.to_json() + "\n"), False


def _measured(asked: Asked, quiet: bool) -> Sensitivity:
    ids = calibration_text(asked.model, asked.calibration, bars(quiet))
    steps = sensitivity_steps(asked.model, len(asked.schemes))
    with progress("measuring layers", steps, quiet) as advance:
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


def sensitivity_table(sensitivity: Sensitivity) -> Table:
    """Losses of every layer, and their sums: what a plan of one scheme is predicted to lose."""
    title = f"Loss by layer and scheme ({sensitivity.metric})"
    caption = f"the model's own loss: {sensitivity.reference:.4g} nats per token"
    table = Table("layer", *map(escape, sensitivity.losses), title=title, caption=caption)
    count = len(next(iter(sensitivity.losses.values())))
    for number in range(count):
        name = {0: "embedding", count - 1: "head"}.get(number, str(number))
        table.add_row(name, *(f"{values[number]:.2e}" for values in sensitivity.losses.values()))
    table.add_section()
    table.add_row("all", *(f"{sum(values):.2e}" for values in sensitivity.losses.values()))
    return table
