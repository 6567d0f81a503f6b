"""`edgewise sensitivity`: what each layer loses in each scheme; measured once, then kept."""

import json

from rich.markup import escape
from rich.table import Table

from edgewise.cli.commands import SensitivityOptions
from edgewise.cli.options import split_names
from edgewise.cli.terminal import bars, console, print_json
from edgewise.opening.sensitivity import Asked, cached_sensitivity
from edgewise.quality.calibration import Calibration
from edgewise.sensitivities import Sensitivity


def run_sensitivity(options: SensitivityOptions) -> None:
    """Measure, or take from the cache, and print."""
    text = Calibration(options.text, options.sequences, options.length, options.seed)
    schemes = split_names(options.schemes)
    asked = Asked(options.model, schemes, options.metric, options.rounding, text)
    sensitivity, path, cached = cached_sensitivity(
        asked, fresh=options.fresh, show=bars(options.as_json)
    )
    if options.out is not None:
        options.out.write_text(sensitivity.to_json() + "\n", encoding="utf-8")
    screen = console(options.as_json)
    screen.print(sensitivity_table(sensitivity))
    screen.print(f"({'from the cache' if cached else 'measured now'}: {path or 'not kept'})")
    if options.as_json:
        document = {"sensitivity": json.loads(sensitivity.to_json()), "cached": cached}
        print_json({**document, "path": path and str(path)})


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
