"""`edgewise quantize`: quantize layers ahead of time, with a method that looks at their inputs."""

from pathlib import Path

from edgewise.cli.sensitivity import calibration_text
from edgewise.cli.terminal import console, print_json, progress
from edgewise.errors import InputError
from edgewise.models.checkpoint import open_checkpoint
from edgewise.plans import Plan
from edgewise.quality.calibration import Calibration
from edgewise.quality.prepare import LOOKED_AT, full_name, prepare
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
    ids = calibration_text(model, calibration, as_json)
    store, method = Store.default(), full_name(model, rounding, calibration) or rounding
    with progress("quantizing", spec.num_layers, as_json) as advance:
        made = prepare(model, wanted, method, ids, store, advance)
    assert store is not None  # or `prepare` would have said so
    total = sum(get_scheme(x).family is Family.GROUPED for names in wanted for x in names)
    # What looks at another text than by default is asked for by its full name.
    name = rounding if calibration == LOOKED_AT else method
    screen = console(as_json)
    screen.print(f"{made} layers quantized, {total - made} kept ({store.folder})")
    screen.print(f"To use them: --rounding {name}")
    if as_json:
        document = {"model": model, "rounding": name, "made": made, "kept": total - made}
        print_json({**document, "folder": str(store.folder)})
