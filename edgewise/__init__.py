"""Run one large language model across the devices you already have."""

__version__ = "0.1.0"
