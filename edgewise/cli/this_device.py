"""This machine as a device of a cluster."""

import platform

from edgewise.clusters import Device
from edgewise.errors import InputError
from edgewise.runtime.machine import free_bytes, physical_cores
from edgewise.units import parse_bytes, parse_disk_rate


def this_device(
    name: str | None,
    memory: str | None,
    threads: int | None,
    slowdown: float = 1.0,
    disk: str | None = None,
) -> Device:
    """Its free memory and physical cores, and no disk, where nothing else is said. Raises
    InputError."""
    try:
        size = free_bytes() if memory is None else parse_bytes(memory)
    except ValueError as error:
        raise InputError(f"--memory: {error}") from None
    try:
        rate = 0.0 if disk is None else parse_disk_rate(disk)
    except ValueError as error:
        raise InputError(f"--disk: {error}") from None
    return Device(
        name or platform.node() or "device",
        size,
        threads or physical_cores(),
        slowdown,
        disk_bytes_per_second=rate,
    )


def parse_address(text: str, option: str) -> tuple[str, int]:
    """HOST:PORT. Raises InputError, which names the option."""
    host, colon, port = text.rpartition(":")
    if not (colon and host and port.isdigit() and int(port) < 2**16):
        raise InputError(f"{option}: '{text}' is not HOST:PORT")
    return host, int(port)
