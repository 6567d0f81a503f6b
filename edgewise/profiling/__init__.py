"""Measure a model's layers on every device, through its worker, and every directed link."""

from edgewise.profiling.measure import Grid, measure, measure_links, num_measurements

__all__ = ["Grid", "measure", "measure_links", "num_measurements"]
