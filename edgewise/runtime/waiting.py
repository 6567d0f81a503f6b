"""Waiting for a moment, precisely, and how long it takes a device to compute."""

import time
from collections.abc import Callable

from edgewise.clusters import Device

SPIN_SECONDS = 2e-4


def wait_until(moment: float) -> None:
    """Sleep until a moment of `time.monotonic`, to within some microseconds: the end is spun."""
    remaining = moment - time.monotonic()
    if remaining > SPIN_SECONDS:
        time.sleep(remaining - SPIN_SECONDS)
    while time.monotonic() < moment:
        pass


def computing_clock(device: Device) -> Callable[[], float]:
    """What tells how long a device computes. Emulated ones share a machine: one whose only thread
    has to wait there has not computed meanwhile, which must not count as many times as it does."""
    alone = device.slowdown > 1 and device.threads == 1 and device.processor == "cpu"
    return time.thread_time if alone else time.monotonic
