import numpy as np
import pytest

from edgewise.errors import InputError
from edgewise.federating.packing import from_vector, to_vector
from edgewise.federating.waiting import GRACE, SLOWER, waited_until
from tests.federating.updates import drawn_arrays, same


def test_nobody_hurries_the_first_half_and_the_rest_is_not_waited_for_without_end():
    assert waited_until([], 4, 100.0) == 100.0
    assert waited_until([2.0], 4, 100.0) == 100.0
    assert waited_until([3.0, 2.0], 4, 100.0) == SLOWER * 3.0 + GRACE
    assert waited_until([3.0, 2.0, 50.0], 4, 100.0) == SLOWER * 3.0 + GRACE
    assert waited_until([30.0, 40.0], 4, 100.0) == 100.0


def test_what_is_packed_is_unpacked_and_nothing_else():
    arrays = drawn_arrays(np.random.default_rng(0))
    vector = to_vector(arrays)
    assert vector.dtype == np.float32 and same(from_vector(vector, arrays), arrays)
    for bad in (vector[:-1], vector.astype(np.float64), vector[None]):
        with pytest.raises(InputError, match="was expected"):
            from_vector(bad, arrays)
