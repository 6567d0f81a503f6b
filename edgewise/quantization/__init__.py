"""Weights in few bits: packing, rounding methods, and the modules that hold the result."""

from edgewise.quantization.packed import Packed
from edgewise.quantization.rounding import METHODS, quantize_matrix
from edgewise.quantization.store import Store

__all__ = ["METHODS", "Packed", "Store", "quantize_matrix"]
