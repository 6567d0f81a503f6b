"""`edgewise quantize`: quantize layers ahead of time, with a method that looks at their inputs."""

from pathlib import Path

from edgewise.cli.terminal import bars, console, print_json
from edgewise.errors import InputError, QuantizationError
from edgewise.models.checkpoint import open_checkpoint
from edgewise.plans import Plan
from edgewise.quality.calibration import Calibration
from edgewise.quality.rounding import collected, make_layers
from edgewise.quality.statistics import LOOKED_AT
from edgewise.quantization.rounding import calibrated
from edgewise.quantization.store import Store
from edgewise.schemes import Family, get_scheme


def run_quantize(
    model: str,
    *,
    plan_file: Path | None,
    schemes: tuple[str, ...],
    rounding: str,
    calibration: Calibration,
    as_json: bool,
) -> None:
    """Quantize each layer into the schemes, or into the one that a plan gives it."""
    spec = open_checkpoint(model).spec
    if plan_file is not None:
        plan = Plan.load(plan_file)
        plan.check_model(spec)
        wanted: list[tuple[str, ...]] = [(name,) for name in plan.schemes]
    else:
        wanted = [schemes] * spec.num_layers
    for name in {name for names in wanted for name in names}:
        if get_scheme(name).family is not Family.GROUPED and plan_file is None:
            raise InputError(f"{name} is not quantized in groups; give schemes such as q4g64")
    key, store = collected(model, calibration, bars(as_json)), Store.default()
    if key is None or store is None:
        raise QuantizationError(f"no folder to keep layers by {rounding} in: set XDG_CACHE_HOME")
    method = calibrated(rounding, key)
    made = make_layers(model, wanted, method, calibration, bars(as_json))
    total = sum(get_scheme(x).family is Family.GROUPED for names in wanted for x in names)
    # What looks at another text than by default is asked for by its full name.
    name = rounding if calibration == LOOKED_AT else method
    screen = console(as_json)
    screen.print(f"{made} layers quantized, {total - made} kept ({store.folder})")
    screen.print(f"To use them: --rounding {name}")
    if as_json:
        document = {"model": model, "rounding": name, "made": made, "kept": total - made}
        print_json({**document, "folder": str(store.folder)})
