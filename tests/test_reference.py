"""The page about Python is made from docstrings: here, that what it names exists and has one."""

import importlib
import pkgutil
import re
from pathlib import Path

import pytest

import edgewise

PAGE = Path(__file__).parents[1] / "docs" / "reference.md"
NAMES = re.findall(r"^::: (\S+)$", PAGE.read_text(), re.MULTILINE)


@pytest.mark.parametrize("name", NAMES)
def test_what_is_named_has_a_docstring(name: str) -> None:
    assert pkgutil.resolve_name(where(name)).__doc__


def where(name: str) -> str:
    """Module and name in it: a module may be hidden behind a function of its name."""
    module, _, last = name.rpartition(".")
    try:
        importlib.import_module(name)
    except ModuleNotFoundError:
        importlib.import_module(module)
        return f"{module}:{last}"
    return f"{name}:"


def test_all_that_is_public_is_there() -> None:
    public = {f"edgewise.{name}" for name in edgewise.__all__} - {"edgewise.__version__"}
    assert public <= set(NAMES)
