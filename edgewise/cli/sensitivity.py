"""`edgewise sensitivity`: what each layer loses in each scheme; measured once, then kept."""

import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from rich.markup import escape
from rich.table import Table
from torch import Tensor

from edgewise.caches import cache_folder, cache_key, is_cached, remove, write_text_atomically
from edgewise.cli.terminal import console, print_json, progress
from edgewise.errors import ProfileError
from edgewise.models.checkpoint import open_checkpoint
from edgewise.quality.calibration import Calibration, sequences, text_key
from edgewise.quality.prepare import LOOKED_AT, full_name, prepare
from edgewise.quality.sensitivity import measure_sensitivity, num_steps
from edgewise.quantization.rounding import CALIBRATED
from edgewise.quantization.store import Store
from edgewise.schemes import Family, get_scheme
from edgewise.sensitivities import VERSION, Sensitivity


@dataclass(frozen=True, slots=True)
class Asked:
    """What is to be measured."""

    model: str
    schemes: tuple[str, ...]
    metric: str = "kl"
    rounding: str | None = None
    calibration: Calibration = field(default_factory=Calibration)


def run_sensitivity(asked: Asked, *, out: Path | None, fresh: bool, as_json: bool) -> None:
    """Measure, or take from the cache, and print."""
    found, path, cached = cached_sensitivity(asked, fresh=fresh, quiet=as_json)
    if out is not None:
        out.write_text(found.to_json() + "\n", encoding="utf-8")
    screen = console(as_json)
    screen.print(sensitivity_table(found))
    screen.print(f"({'from the cache' if cached else 'measured now'}: {path or 'not kept'})")
    if as_json:
        document = {"sensitivity": json.loads(found.to_json()), "cached": cached}
        print_json({**document, "path": path and str(path)})


def cached_sensitivity(
    asked: Asked, *, fresh: bool = False, quiet: bool = False
) -> tuple[Sensitivity, Path | None, bool]:
    """A sensitivity, where it is kept (None: nowhere), and whether it was there already. It is
    measured again when the weights, the schemes, the text or the way of measuring change."""
    for scheme in asked.schemes:
        get_scheme(scheme)
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
    ids = calibration_text(asked.model, asked.calibration, quiet)
    make_ready(asked.model, asked.schemes, asked.rounding, quiet)
    with progress("measuring layers", num_steps(asked.model), quiet) as advance:
        return measure_sensitivity(
            asked.model,
            asked.schemes,
            ids,
            asked.metric,
            method=full_name(asked.model, asked.rounding),
            store=Store.default(),
            on_step=advance,
        )


def calibration_text(model: str, asked: Calibration, quiet: bool) -> Tensor:
    """Token ids [count, length]."""
    with progress("writing text", asked.length - 1, quiet or asked.text is not None) as advance:
        return sequences(model, asked, advance)


def make_ready(model: str, schemes: Sequence[str], rounding: str | None, quiet: bool) -> int:
    """Quantize every layer into every scheme where the method has to look at inputs first, and no
    text was named with it; returns how many layers were made."""
    base = (rounding or "").partition(":")[0]
    method = full_name(model, base) or ""
    if base not in CALIBRATED or rounding not in (base, method):
        return 0
    names = [name for name in schemes if get_scheme(name).family is Family.GROUPED]
    ids = calibration_text(model, LOOKED_AT, quiet)
    layers = open_checkpoint(model).config.num_layers
    with progress("quantizing", layers, quiet) as advance:
        return prepare(model, [names] * layers, method, ids, Store.default(), advance)


def _key(asked: Asked) -> str:
    text = text_key(asked.model, asked.calibration)
    rounding = full_name(asked.model, asked.rounding)
    return cache_key(VERSION, text, asked.schemes, asked.metric, rounding)


def sensitivity_table(found: Sensitivity) -> Table:
    """Losses of every layer, and their sums: what a plan of one scheme is predicted to lose."""
    title = f"Loss by layer and scheme ({found.metric})"
    caption = f"the model's own loss: {found.reference:.4g} nats per token"
    table = Table("layer", *map(escape, found.losses), title=title, caption=caption)
    count = len(next(iter(found.losses.values())))
    for number in range(count):
        name = {0: "embedding", count - 1: "head"}.get(number, str(number))
        table.add_row(name, *(f"{values[number]:.2e}" for values in found.losses.values()))
    table.add_section()
    table.add_row("all", *(f"{sum(values):.2e}" for values in found.losses.values()))
    return table
