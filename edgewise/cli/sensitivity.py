"""`edgewise sensitivity`: what each layer loses in each scheme; measured once, then kept."""

import hashlib
import json
import os
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from rich.markup import escape
from rich.table import Table
from torch import Tensor

from edgewise.cli.terminal import console, print_text, progress
from edgewise.errors import ProfileError
from edgewise.models.checkpoint import open_checkpoint
from edgewise.models.digests import tensor_digests
from edgewise.quality.calibration import Calibration, sequences
from edgewise.quality.prepare import prepare
from edgewise.quality.sensitivity import measure_sensitivity, num_steps
from edgewise.quantization.store import Store, cache_folder
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
    screen.print(f"({'from the cache' if cached else 'measured now'}: {path})")
    if as_json:
        document = {"sensitivity": json.loads(found.to_json()), "cached": cached}
        print_text(json.dumps({**document, "path": str(path)}) + "\n")


def cached_sensitivity(
    asked: Asked, *, fresh: bool = False, quiet: bool = False
) -> tuple[Sensitivity, Path, bool]:
    """A sensitivity, where it is kept, and whether it was there already. It is measured again when
    the weights, the schemes, the text or the way of measuring change."""
    for scheme in asked.schemes:
        get_scheme(scheme)
    path = cache_folder() / "sensitivities" / f"{_key(asked)}.json"
    if not fresh and path.is_file():
        try:
            return Sensitivity.load(path), path, True
        except ProfileError:
            path.unlink()  # written by half, or by hand: measure again
    found = _measured(asked, quiet)
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_suffix(f".{os.getpid()}")
    partial.write_text(found.to_json() + "\n", encoding="utf-8")
    partial.replace(path)
    return found, path, False


def _measured(asked: Asked, quiet: bool) -> Sensitivity:
    ids = calibration_text(asked.model, asked.calibration, quiet)
    make_ready(asked.model, asked.schemes, asked.rounding, quiet)
    with progress("measuring layers", num_steps(asked.model), quiet) as advance:
        return measure_sensitivity(
            asked.model,
            asked.schemes,
            ids,
            asked.metric,
            method=asked.rounding,
            store=Store.default(),
            on_step=advance,
        )


def calibration_text(model: str, asked: Calibration, quiet: bool) -> Tensor:
    """Token ids [count, length]."""
    with progress("writing text", asked.length - 1, quiet or asked.text is not None) as advance:
        return sequences(model, asked, advance)


def make_ready(model: str, schemes: Sequence[str], rounding: str | None, quiet: bool) -> int:
    """Quantize every layer into every scheme where the method has to look at inputs first; returns
    how many layers were made."""
    if rounding != "gptq":
        return 0
    names = [name for name in schemes if get_scheme(name).family is Family.GROUPED]
    ids = calibration_text(model, PREPARATION, quiet)
    layers = open_checkpoint(model).config.num_layers
    with progress("quantizing", layers, quiet) as advance:
        return prepare(model, [names] * layers, rounding, ids, Store.default(), advance)


PREPARATION = Calibration(seed=1)  # what gptq looks at: other text than is measured on


def _key(asked: Asked) -> str:
    checkpoint = open_checkpoint(asked.model)
    weights = tensor_digests(checkpoint, checkpoint.tensors())
    text = asked.calibration.text
    stamp = None
    if text is not None and Path(text).is_file():
        stamp = (Path(text).stat().st_size, Path(text).stat().st_mtime_ns)
    what = (VERSION, weights, asked.schemes, asked.metric, asked.rounding, asked.calibration, stamp)
    return hashlib.sha256(repr(what).encode()).hexdigest()[:24]


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
