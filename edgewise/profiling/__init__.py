"""Measure a model's layers on every device, through its worker, and every directed link."""

from edgewise.profiling.measure import Grid, measure, num_measurements

__all__ = ["Grid", "measure", "num_measurements"]
