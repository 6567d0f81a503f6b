"""Sizes, bit rates and times: what people write is understood, what is printed can be read back."""

from collections.abc import Callable

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edgewise.units import (
    format_bytes,
    format_rate,
    format_seconds,
    parse_bytes,
    parse_disk_rate,
    parse_rate,
    parse_seconds,
    round_up,
)

quickly = settings(max_examples=200, derandomize=True, deadline=None)
three_digits = st.floats(1, 999.4)


@pytest.mark.parametrize(
    ("text", "count"),
    [
        ("8 GB", 8_000_000_000),
        ("8GB", 8_000_000_000),
        ("  8\tgb ", 8_000_000_000),
        ("8 GiB", 8_589_934_592),
        ("512 MiB", 536_870_912),
        ("1.5 kB", 1_500),
        ("1 KiB", 1_024),
        ("2 TB", 2_000_000_000_000),
        ("1 TiB", 1_099_511_627_776),
        ("7 B", 7),
        ("7", 7),
        ("1e3 MB", 1_000_000_000),
        ("10_000 kB", 10_000_000),
        ("0", 0),
        ("-1 GB", -1_000_000_000),  # refused by whoever asks for it, with a better reason
        ("0.0000005 MB", 0),
        (12, 12),
        (-12, -12),
    ],
)
def test_a_size_in_bytes(text: str | int, count: int) -> None:
    assert parse_bytes(text) == count
    assert type(parse_bytes(text)) is int


@pytest.mark.parametrize(
    ("text", "bytes_per_second"),
    [
        ("50 Mbps", 6_250_000),
        ("50mbps", 6_250_000),
        ("1 Gbit/s", 125_000_000),
        ("8 bps", 1),
        ("16 bit/s", 2),
        ("0.8 kbps", 100),
        ("0 Mbps", 0),
    ],
)
def test_a_bit_rate_becomes_bytes_per_second(text: str, bytes_per_second: float) -> None:
    assert parse_rate(text) == pytest.approx(bytes_per_second, rel=1e-12)


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("2 ms", 2e-3), ("150us", 150e-6), ("1.5 s", 1.5), ("3 min", 180.0), ("0 s", 0.0)],
)
def test_a_time_in_seconds(text: str, seconds: float) -> None:
    assert parse_seconds(text) == pytest.approx(seconds, rel=1e-12)


@pytest.mark.parametrize(
    "text",
    [
        "",
        " ",
        "GB",
        "8 G",
        "8 GBs",
        "8 GB 1",
        "8 Mbps",
        "1.2.3 GB",
        ". GB",
        "_ GB",
        "1__0 GB",
        "nan GB",
        "inf",
        "eight GB",
        "8,5 GB",
        "--1 GB",
        "1e GB",
    ],
)
def test_what_is_no_size_is_refused(text: str) -> None:
    with pytest.raises(ValueError) as caught:
        parse_bytes(text)
    assert str(caught.value) == f"'{text}' is not a size; write it like '8 GB'"


@pytest.mark.parametrize("text", ["", "50", "50 MB/s", "50 Mb", "fast", "nan bps"])
def test_what_is_no_bit_rate_is_refused(text: str) -> None:
    with pytest.raises(ValueError) as caught:
        parse_rate(text)
    assert str(caught.value) == f"'{text}' is not a bit rate; write it like '50 Mbps'"


@pytest.mark.parametrize(
    ("text", "rate"), [("800 MB/s", 8e8), ("1.5GB/s", 1.5e9), ("64 MiB/S", 2**26), ("9/s", 9)]
)
def test_a_disks_rate(text: str, rate: float) -> None:
    assert parse_disk_rate(text) == rate


@pytest.mark.parametrize("text", ["", "800", "800 MB", "800 MB/min", "MB/s", "8 Mbps/s"])
def test_what_is_no_disks_rate_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="write it like '8"):
        parse_disk_rate(text)


def test_a_rate_in_bytes_is_not_taken_for_bits() -> None:
    with pytest.raises(ValueError):
        parse_rate("50 MBps")


@pytest.mark.parametrize("text", ["", "2", "2 h", "2 m", "soon", "nan s", "inf s"])
def test_what_is_no_time_is_refused(text: str) -> None:
    with pytest.raises(ValueError) as caught:
        parse_seconds(text)
    assert str(caught.value) == f"'{text}' is not a time; write it like '2 ms'"


def test_a_size_beyond_floating_point_is_refused() -> None:
    with pytest.raises(ValueError):
        parse_bytes("1e400 GB")


@pytest.mark.parametrize(
    ("function", "value", "text"),
    [
        (format_bytes, 0, "0 B"),
        (format_bytes, 999, "999 B"),
        (format_bytes, 1_000, "1 kB"),
        (format_bytes, 1_234_567, "1.23 MB"),
        (format_bytes, 8e9, "8 GB"),
        (format_bytes, -8e9, "-8 GB"),
        (format_bytes, 1_073_741_824, "1.07 GB"),
        (format_bytes, 2.5e12, "2.5 TB"),
        (format_bytes, 12_345e12, "12,345 TB"),
        (format_rate, 6_250_000, "50 Mbps"),
        (format_rate, 125_000_000, "1 Gbps"),
        (format_rate, 100, "800 bps"),
        (format_rate, 250, "2 kbps"),
        (format_seconds, 0.0, "0 us"),
        (format_seconds, 0.000_15, "150 us"),
        (format_seconds, 0.002, "2 ms"),
        (format_seconds, 1.5, "1.5 s"),
        (format_seconds, 90, "90 s"),
        (format_seconds, 86_400, "86,400 s"),
    ],
)
def test_printed_with_three_digits(
    function: Callable[[float], str], value: float, text: str
) -> None:
    assert function(value) == text


@quickly
@given(three_digits, st.sampled_from([1, 1e3, 1e6, 1e9, 1e12]))
def test_a_printed_size_reads_back_within_three_digits(number: float, factor: float) -> None:
    count = round(number * factor)
    assert parse_bytes(format_bytes(count)) == pytest.approx(count, rel=0.005)


@quickly
@given(three_digits, st.sampled_from([1, 1e3, 1e6, 1e9]))
def test_a_printed_bit_rate_reads_back_within_three_digits(number: float, factor: float) -> None:
    rate = number * factor / 8
    assert parse_rate(format_rate(rate)) == pytest.approx(rate, rel=0.005)


@quickly
@given(three_digits, st.sampled_from([1e-6, 1e-3, 1]))
def test_a_printed_time_reads_back_within_three_digits(number: float, factor: float) -> None:
    seconds = number * factor
    assert parse_seconds(format_seconds(seconds)) == pytest.approx(seconds, rel=0.005)


@quickly
@given(st.integers(-(10**15), 10**15))
def test_a_plain_integer_is_bytes_however_it_is_written(count: int) -> None:
    assert parse_bytes(count) == parse_bytes(str(count)) == parse_bytes(f"{count} B") == count


@quickly
@given(st.floats(1e-6, 1e6))
def test_two_digits_rounded_up_are_no_less_and_a_tenth_more_at_most(number: float) -> None:
    assert number * (1 - 1e-9) <= float(round_up(number)) <= number * 1.1 + 1e-12
