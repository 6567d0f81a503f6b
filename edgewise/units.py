"""Parse and print sizes, bit rates and times. Plain functions on plain numbers, no unit classes.

Sizes are decimal or binary bytes ("8 GB", "512 MiB"), rates are bits per second as network people
write them ("50 Mbps", "1 Gbit/s") and are returned in bytes per second, times are seconds ("2 ms").
"""

import contextlib
import math
import re
from collections.abc import Mapping

_BYTES = {"": 1, "b": 1, "kb": 10**3, "mb": 10**6, "gb": 10**9, "tb": 10**12} | {
    "kib": 2**10,
    "mib": 2**20,
    "gib": 2**30,
    "tib": 2**40,
}
_BITS = {"": 1.0, "k": 1e3, "m": 1e6, "g": 1e9}
_RATES = {p + tail: f for p, f in _BITS.items() for tail in ("bps", "bit/s")}
_SECONDS = {"us": 1e-6, "ms": 1e-3, "s": 1.0, "min": 60.0}
_NUMBER = re.compile(r"\s*([-+]?[\d._]+(?:e[-+]?\d+)?)\s*([a-z/]*)\s*", re.IGNORECASE)


def _parse(text: str, factors: Mapping[str, float], what: str, example: str) -> float:
    match = _NUMBER.fullmatch(text)
    # "MBps" would mean megabytes, eight times as many bits: not a spelling to guess at.
    if match is not None and match[2].lower() in factors and "Bps" not in match[2]:
        with contextlib.suppress(ValueError):
            value = float(match[1]) * factors[match[2].lower()]
            if math.isfinite(value):
                return value
    raise ValueError(f"'{text}' is not a {what}; write it like '{example}'")


def parse_bytes(text: str | int) -> int:
    """Bytes from '8 GB', '512 MiB' or a plain integer. Raises ValueError."""
    return text if isinstance(text, int) else round(_parse(text, _BYTES, "size", "8 GB"))


def parse_rate(text: str) -> float:
    """Bytes per second from a bit rate such as '50 Mbps' or '1 Gbit/s'. Raises ValueError."""
    return _parse(text, _RATES, "bit rate", "50 Mbps") / 8


def parse_disk_rate(text: str) -> float:
    """Bytes per second from '800 MB/s', as disks are sold. Raises ValueError."""
    count, slash, second = text.rpartition("/")
    if not slash or second.strip().lower() != "s":
        raise ValueError(f"'{text}' is not a disk's rate; write it like '800 MB/s'")
    return float(parse_bytes(count))


def parse_seconds(text: str) -> float:
    """Seconds from '2 ms', '150 us' or '1.5 s'. Raises ValueError."""
    return _parse(text, _SECONDS, "time", "2 ms")


def _scaled(value: float, steps: tuple[tuple[float, str], ...]) -> str:
    # A value that three digits would round up to 1000 of one unit is shown as 1 of the next.
    factor, unit = next(((f, u) for f, u in steps if abs(value) >= 0.9995 * f), steps[-1])
    scaled = value / factor
    return f"{scaled:,.0f} {unit}" if abs(scaled) >= 999.5 else f"{scaled:.3g} {unit}"


def format_bytes(count: float) -> str:
    return _scaled(count, ((1e12, "TB"), (1e9, "GB"), (1e6, "MB"), (1e3, "kB"), (1.0, "B")))


def format_rate(bytes_per_second: float) -> str:
    bits = bytes_per_second * 8
    return _scaled(bits, ((1e9, "Gbps"), (1e6, "Mbps"), (1e3, "kbps"), (1.0, "bps")))


def format_seconds(seconds: float) -> str:
    return _scaled(seconds, ((1.0, "s"), (1e-3, "ms"), (1e-6, "us")))


def round_up(number: float) -> str:
    """Two digits, no less than a number of zero or more."""
    if number <= 0:
        return "0"
    step = 10.0 ** (math.floor(math.log10(number)) - 1)
    return f"{math.ceil(number / step * (1 - 1e-12)) * step:.2g}"
