"""Measure a model's layers on every device, through its worker, and every directed link."""

from edgewise.profiling.measure import measure, num_measurements

__all__ = ["measure", "num_measurements"]
