"""Measure a model's layers on every device, through its worker, and every directed link."""

from edgewise.profiling.grid import Grid
from edgewise.profiling.links import measure_links
from edgewise.profiling.measure import measure, measure_layers, num_measurements
from edgewise.profiling.memory import read_memory

__all__ = ["Grid", "measure", "measure_layers", "measure_links", "num_measurements", "read_memory"]
