"""What is tested here and what is not: a line for each instruction set that this machine lacks.

EDGEWISE_REQUIRE=avx2,avx512-vnni,... makes a failure of it: for machines that should have them.
"""

import os
import shutil

import pytest

from edgewise import kernels
from tests.kernels.conftest import SETS, usable

REQUIRED = [name for name in os.environ.get("EDGEWISE_REQUIRE", "").split(",") if name]


@pytest.mark.parametrize("name", SETS)
def test_this_machine_has(name: str) -> None:
    if name not in usable() and not any(name.startswith(required) for required in REQUIRED):
        pytest.skip(f"{name} is not tested on this machine")
    assert name in usable(), f"EDGEWISE_REQUIRE asks for {name}"


def test_a_compiler_means_kernels() -> None:
    if shutil.which("g++") is None and shutil.which("clang++") is None:
        pytest.skip("no C++ compiler")
    assert kernels.available(), "there is a compiler, but the kernels were not built"
