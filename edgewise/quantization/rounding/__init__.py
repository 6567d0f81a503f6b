"""Rounding methods: from a matrix to its codes. A new one is a file here and a row below."""

from collections.abc import Callable, Mapping

import torch
from torch import Tensor

from edgewise.errors import QuantizationError
from edgewise.quantization.packed import Packed
from edgewise.quantization.rounding.gptq import gptq
from edgewise.quantization.rounding.nearest import nearest
from edgewise.quantization.rounding.truncation import truncation
from edgewise.schemes import Family, Scheme

# (weight of any float type [rows, columns], scheme, second moments of the
# inputs, float32 [columns] or [columns, columns], or None) -> Packed
Method = Callable[[Tensor, Scheme, Tensor | None], Packed]

METHODS: Mapping[Family, Mapping[str, Method]] = {
    Family.GROUPED: {"nearest": nearest, "gptq": gptq},
    Family.TRUNCATED: {"truncate": truncation},
}

# Those that look at pairs of columns, of which nobody keeps the moments.
_PAIRS = frozenset({"gptq"})


def default_method(scheme: Scheme) -> str:
    """The first method of a scheme's family; none for floating point."""
    return next(iter(METHODS.get(scheme.family, {})), "")


def calibrated(method: str, key: str) -> str:
    """The full name of a method: with the name of the statistics of inputs that it looks at."""
    return f"{method}:{key}"


def calibration_of(method: str) -> str:
    """The statistics that a full name names, "" for none."""
    return method.partition(":")[2]


def sees_pairs(method: str) -> bool:
    """Whether a method looks at moments [columns, columns], and so has to be handed them."""
    return method.partition(":")[0] in _PAIRS


def quantize_matrix(
    weight: Tensor,
    scheme: Scheme,
    method: str | None = None,
    moments: Tensor | None = None,
    *,
    name: str = "a matrix",
) -> Packed:
    """A matrix [rows, columns] of any float type in a scheme, by default with the first method of
    its family; methods are also known by their full names. Raises QuantizationError, which calls
    the matrix `name`."""
    known = {} if scheme.half else METHODS.get(scheme.family, {})
    method = (method or default_method(scheme)).partition(":")[0]
    if method not in known:
        raise QuantizationError(
            f"{scheme.name} is not rounded by '{method}'; methods: {', '.join(known) or 'none'}"
        )
    # The extremes of numbers of which one is NaN are NaN; torch.isfinite makes copies.
    if not all(map(torch.isfinite, torch.aminmax(weight))):
        raise QuantizationError(f"{name} holds numbers that are not finite")
    return known[method](weight, scheme, moments)
