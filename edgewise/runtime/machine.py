"""This machine: its name in profiles, the memory that it has free, what a process takes of it."""

import platform

import psutil
import torch


def machine_name() -> str:
    """Two devices with one name share their memory."""
    return f"{platform.node()}, {platform.machine()}, torch {torch.__version__}"


def free_bytes() -> int:
    """What programs can have without that others are moved out of memory."""
    return int(psutil.virtual_memory().available)


def process_bytes() -> int:
    """What this process holds for itself alone: what would be free without it."""
    return int(psutil.Process().memory_full_info().uss)
