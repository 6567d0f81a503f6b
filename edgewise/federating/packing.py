"""Named arrays as one vector and back: hundreds of small arrays cost more in what frames them than
in numbers. Names and shapes do not travel: whoever reads them knows what a round began with."""

import numpy as np

from edgewise.errors import InputError
from edgewise.federating.updates import Array, Arrays


def to_vector(arrays: Arrays) -> Array:
    """All numbers, float32 [numbers], by name."""
    parts = [np.asarray(arrays[name], dtype=np.float32).ravel() for name in sorted(arrays)]
    return np.concatenate(parts) if parts else np.zeros(0, dtype=np.float32)


def from_vector(vector: Array, like: Arrays) -> dict[str, Array]:
    """The arrays, named and shaped as `like`. Raises InputError where the vector is not theirs."""
    total = sum(array.size for array in like.values())
    if vector.dtype != np.float32 or vector.shape != (total,):
        raise InputError(
            f"an adapter of {total} float32 was expected, not {vector.dtype} {list(vector.shape)}"
        )
    arrays, at = dict[str, Array](), 0
    for name in sorted(like):
        end = at + like[name].size
        arrays[name], at = vector[at:end].reshape(like[name].shape), end
    return arrays
