"""This machine: its name in profiles, the memory that it has free, what a process takes of it."""

import os
import platform

import psutil
import torch

from edgewise import __version__, kernels


def machine_name() -> str:
    """Two devices with one name share their memory."""
    return f"{platform.node()}, {platform.machine()}, torch {torch.__version__}"


def code_name() -> str:
    """What computes here: seconds measured with other code mean nothing."""
    return f"{__version__}, {kernels.instruction_set()}, {kernels.library_digest()}"


def physical_cores() -> int:
    """How many threads compute at full speed."""
    return psutil.cpu_count(logical=False) or os.cpu_count() or 1


def free_bytes() -> int:
    """What programs can have without that others are moved out of memory."""
    return int(psutil.virtual_memory().available)


def process_bytes() -> int:
    """What this process holds for itself alone: what would be free without it."""
    return int(psutil.Process().memory_full_info().uss)
