"""The C++ itself: built with sanitizers, for ARM, with clang, and not at all."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.seeds import THOROUGH

ROOT = Path(__file__).parents[2]
SOURCES = [Path(__file__).parent / "driver.cpp", *sorted(ROOT.glob("edgewise/kernels/src/*.cpp"))]
STRICT = ("-std=c++17", "-Wall", "-Wextra", "-Werror", "-Wno-psabi", "-pthread")
# gcc 12's own headers.
STRICT_GCC = (*STRICT, "-Wno-maybe-uninitialized")


thorough = pytest.mark.skipif(not THOROUGH, reason="minutes of compiling: make test-slow")


def build(compiler, program, *options):
    if shutil.which(compiler) is None:
        pytest.skip(f"{compiler} is not installed")
    command = [compiler, *options, *map(str, SOURCES), "-o", str(program)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr[-3000:]
    return str(program)


def run(*command):
    done = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stdout + done.stderr[-3000:]
    return done.stdout


@thorough
def test_random_shapes_with_sanitizers(tmp_path):
    options = ("-O1", "-g", "-fsanitize=address,undefined", "-fno-sanitize-recover=all")
    driver = build("g++", tmp_path / "driver", *STRICT_GCC, *options)
    assert "portable: done" in run(driver, "100")


@thorough
def test_random_shapes_with_dot_products_of_avx_vnni(tmp_path):
    """Where the processor has them in AVX-512 only: the same code, other encodings."""
    driver = build("g++", tmp_path / "driver", *STRICT_GCC, "-O2", "-DEDGEWISE_EVEX")
    if "avx512-vnni: done" not in (report := run(driver, "100")):
        pytest.skip("this processor has no dot products of bytes")
    assert "avx-vnni: done" in report


@thorough
def test_random_shapes_on_arm(tmp_path):
    emulator = shutil.which("qemu-aarch64-static") or shutil.which("qemu-aarch64")
    if emulator is None:
        pytest.skip("qemu-aarch64 is not installed")
    driver = build("aarch64-linux-gnu-g++", tmp_path / "driver", *STRICT, "-O2", "-static")
    report = run(emulator, driver, "60")
    assert "neon-i8mm: done" in report and "neon-dotprod: done" in report


@thorough
@pytest.mark.parametrize("compiler", ["clang++", "clang++-16"])
def test_random_shapes_with_clang(tmp_path, compiler):
    driver = build(compiler, tmp_path / "driver", *STRICT, "-O3", "-Wno-unknown-pragmas")
    assert "portable: done" in run(driver, "100")


def test_without_a_compiler_the_package_is_built_all_the_same(tmp_path):
    """The extension is optional: no compiler, no library, no error."""
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, tmp_path / name)
    shutil.copytree(ROOT / "edgewise/kernels", tmp_path / "edgewise/kernels")
    for built in tmp_path.glob("edgewise/kernels/native*"):
        built.unlink()
    shutil.copy(ROOT / "edgewise/__init__.py", tmp_path / "edgewise/__init__.py")
    command = [sys.executable, "-c", "from setuptools import setup; setup()", "build_ext"]
    environment = os.environ | {"CC": "/nowhere/cc", "CXX": "/nowhere/c++"}
    done = subprocess.run(
        [*command, "--build-lib", "out"],
        cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=120,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    assert "failed" in done.stderr
    assert not list(tmp_path.glob("out/edgewise/kernels/native*"))
