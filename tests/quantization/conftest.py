"""Rounding, with the library and without."""

import sys
from collections.abc import Iterator

import pytest

from edgewise import kernels


@pytest.fixture(params=["library", "torch"], scope="module")
def rounder(request: pytest.FixtureRequest) -> Iterator[None]:
    """Where there is no compiler there is no library; where there is one, tests of the kernels fail
    without."""
    if request.param == "library" and not kernels.available():
        pytest.skip("the kernels were not built")
    with pytest.MonkeyPatch.context() as patch:
        if request.param == "torch":
            module = sys.modules["edgewise.quantization.rounding.nearest"]
            patch.setattr(module, "can_round", lambda _: False)
        yield
