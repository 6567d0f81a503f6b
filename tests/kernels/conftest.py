"""The instruction sets that the kernels' tests run with: those that this machine has."""

from collections.abc import Iterator

import pytest

from edgewise import kernels

SETS = ("avx512-vnni", "avx-vnni", "avx2", "neon-i8mm", "neon-dotprod", "portable")
BEST = kernels.instruction_set()


def usable() -> list[str]:
    """The sets that this machine has; none where the kernels were not built."""
    here = [name for name in SETS if kernels.use(name)]
    if BEST is not None:
        kernels.use(BEST)
    return here


@pytest.fixture(params=usable())
def isa(request: pytest.FixtureRequest) -> Iterator[str]:
    """Each of them in turn."""
    kernels.use(request.param)
    yield request.param
    if BEST is not None:
        kernels.use(BEST)
