"""`edgewise quantize`: quantize layers ahead of time, with a method that looks at their inputs."""

from edgewise.cli.commands import QuantizeOptions
from edgewise.cli.options import split_names
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


def run_quantize(options: QuantizeOptions) -> None:
    """Quantize each layer into the schemes, or into the one that a plan gives it."""
    model, rounding, show = options.model, options.rounding, bars(options.as_json)
    text = Calibration(options.text, options.sequences, options.length, options.seed)
    wanted = _wanted(options)
    key, store = collected(model, text, show), Store.default()
    if key is None or store is None:
        raise QuantizationError(f"no folder to keep layers by {rounding} in: set XDG_CACHE_HOME")
    method = calibrated(rounding, key)
    made = make_layers(model, wanted, method, text, show)
    total = sum(get_scheme(x).family is Family.GROUPED for names in wanted for x in names)
    # What looks at another text than by default is asked for by its full name.
    name = rounding if text == LOOKED_AT else method
    screen = console(options.as_json)
    screen.print(f"{made} layers quantized, {total - made} kept ({store.folder})")
    screen.print(f"To use them: --rounding {name}")
    if options.as_json:
        document = {"model": model, "rounding": name, "made": made, "kept": total - made}
        print_json({**document, "folder": str(store.folder)})


def _wanted(options: QuantizeOptions) -> list[tuple[str, ...]]:
    """The schemes that each layer is quantized into. Raises InputError, PlanError."""
    spec = open_checkpoint(options.model).spec
    if options.plan is not None:
        plan = Plan.load(options.plan)
        plan.check_model(spec)
        return [(name,) for name in plan.schemes]
    schemes = split_names(options.schemes)
    for name in schemes:
        if get_scheme(name).family is not Family.GROUPED:
            raise InputError(f"{name} is not quantized in groups; give schemes such as q4g64")
    return [schemes] * spec.num_layers
