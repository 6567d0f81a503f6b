"""Everything else is in pyproject.toml. setuptools compiles one file after the other."""

from pybind11.setup_helpers import ParallelCompile
from setuptools import setup

with ParallelCompile():
    setup()
