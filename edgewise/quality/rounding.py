"""How layers are rounded, by the method's full name: what it looks at is collected first, once."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager

from torch import Tensor

from edgewise.caches import is_cached
from edgewise.errors import QuantizationError
from edgewise.models.checkpoint import open_checkpoint
from edgewise.quality.calibration import Calibration, sequences
from edgewise.quality.prepare import prepare
from edgewise.quality.statistics import LOOKED_AT, collect_statistics, statistics_key
from edgewise.quantization.rounding import METHODS, calibrated, sees_pairs
from edgewise.quantization.statistics import statistics_path
from edgewise.quantization.store import Store
from edgewise.schemes import Family, get_scheme

# Shows how (what, of how many steps) goes; what it yields is called with each step.
Show = Callable[[str, int | None], AbstractContextManager[Callable[[object], None]]]


@contextmanager
def unseen(task: str, total: int | None) -> Iterator[Callable[[object], None]]:
    """Shows nothing."""
    yield lambda step: None


def rounding_for(
    model: str, schemes: Sequence[str], rounding: str | None = None, show: Show = unseen
) -> str | None:
    """The full name of a rounding method, None: of each scheme's own. What it needs to know of the
    model is ready when this returns: statistics of its inputs, and what GPTQ makes of its layers.

    Full names of other texts are left alone, since only who collected them knows these; where
    nothing is rounded in groups, or nothing can be kept, so are short names. Raises InputError,
    ModelError, QuantizationError."""
    wanted = [
        tuple({layer.concrete(get_scheme(name)).name for name in schemes})
        for layer in open_checkpoint(model).spec.layers
    ]
    families = {get_scheme(name).family for names in wanted for name in names}
    families -= {Family.FLOAT, Family.STORED}
    method, _, known = (rounding or next(iter(METHODS[Family.GROUPED]))).partition(":")
    if families != {Family.GROUPED} or method not in METHODS[Family.GROUPED]:
        return rounding
    if known and known != statistics_key(model):
        return rounding
    key = collected(model, LOOKED_AT, show)
    if key is None and sees_pairs(method):
        raise QuantizationError(f"no folder to keep layers by {method} in: set XDG_CACHE_HOME")
    if key is None:
        return rounding
    name = calibrated(method, key)
    if sees_pairs(method):
        make_layers(model, wanted, name, LOOKED_AT, show)
    return name


def collected(model: str, text: Calibration, show: Show = unseen) -> str | None:
    """The key of statistics of a model's inputs on a text, collected now or before; None where
    there is no place to keep them."""
    key = statistics_key(model, text)
    path = statistics_path(key)
    if path is None or is_cached(path):
        return None if path is None else key
    ids = calibration_text(model, text, show)
    with show("looking at inputs", open_checkpoint(model).config.num_layers) as advance:
        statistics = collect_statistics(model, ids, advance)
    return key if statistics.keep(path) else None


def make_layers(
    model: str,
    wanted: Sequence[Sequence[str]],
    name: str,
    text: Calibration,
    show: Show = unseen,
) -> int:
    """Quantize layer i into wanted[i] by the method of that full name; how many were made."""
    ids = calibration_text(model, text, show)
    with show("quantizing", len(wanted)) as advance:
        return prepare(model, wanted, name, ids, Store.default(), advance)


def calibration_text(model: str, asked: Calibration, show: Show = unseen) -> Tensor:
    """Token ids [count, length]."""
    if asked.text is not None:
        return sequences(model, asked)
    with show("writing text", asked.length - 1) as advance:
        return sequences(model, asked, advance)
