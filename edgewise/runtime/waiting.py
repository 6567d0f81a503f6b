"""Waiting for a moment, precisely."""

import time

SPIN_SECONDS = 2e-4


def wait_until(moment: float) -> None:
    """Sleep until a moment of `time.monotonic`, to within some microseconds: the end is spun."""
    remaining = moment - time.monotonic()
    if remaining > SPIN_SECONDS:
        time.sleep(remaining - SPIN_SECONDS)
    while time.monotonic() < moment:
        pass
