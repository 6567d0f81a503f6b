"""Frames: what goes in comes out, and whatever else comes in is a ValueError."""

import subprocess
import sys

import msgspec
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from edgewise.runtime.messages import Echo, Ping, Step
from edgewise.runtime.sampling import Sampling
from edgewise.runtime.spans import Span
from edgewise.runtime.transport import frames
from edgewise.runtime.transport.frames import (
    OWN_FRAME_BYTES,
    FrameHeader,
    History,
    Numbering,
    envelope_of,
    header_of,
)

STEP = Step(1, 2, 3, (Span(4, 5, 6, Sampling(0.5), (7, 8)),), (9,), (0.25,))


def decoded(parts):
    return envelope_of(header_of(parts[0]), [bytearray(part) for part in parts])


def framed(header):
    """A header's bytes behind their length."""
    return len(header).to_bytes(4, "little") + header


def header(**changes):
    """A good header with other fields."""
    good = header_of(Numbering("a").encode(Echo(), torch.zeros(2, 2))[0])
    return framed(msgspec.msgpack.encode(msgspec.structs.replace(good, **changes)))


def raw(document):
    return msgspec.Raw(msgspec.msgpack.encode(document))


@pytest.mark.parametrize("size", [0, 1, OWN_FRAME_BYTES // 8 - 1, OWN_FRAME_BYTES // 8])
def test_what_goes_in_comes_out(size):
    parts = Numbering("a").encode(STEP, torch.arange(size))
    assert len(parts) == 1 + (size * 8 >= OWN_FRAME_BYTES)
    envelope = decoded(parts)
    assert (envelope.sender, envelope.message) == ("a", STEP)
    assert torch.equal(envelope.tensor, torch.arange(size))


LATE = """
from edgewise.runtime.messages import Ping
from edgewise.runtime.transport.frames import Numbering, envelope_of, header_of
numbering = Numbering("a")
def through(message):
    parts = numbering.encode(message)
    return envelope_of(header_of(parts[0]), [bytearray(part) for part in parts]).message
assert through(Ping()) == Ping()
from edgewise.tuning.messages import Held
assert through(Held(3)) == Held(3)
"""


def test_messages_of_what_is_imported_later_are_known():
    """A process may serve first, and tune then."""
    subprocess.run([sys.executable, "-c", LATE], check=True, timeout=120)


@pytest.mark.parametrize("own_frame", [False, True])
@pytest.mark.parametrize("offset", range(8))
def test_numbers_that_lie_anywhere_are_read(offset, own_frame, monkeypatch):
    monkeypatch.setattr(frames, "OWN_FRAME_BYTES", 0 if own_frame else 100)
    parts = Numbering("a").encode(Echo(), torch.arange(5))
    assert len(parts) == 1 + own_frame
    memories = [memoryview(bytearray(bytes(offset) + part))[offset:] for part in map(bytes, parts)]
    envelope = envelope_of(header_of(parts[0]), memories)
    assert envelope.tensor.tolist() == [0, 1, 2, 3, 4]
    assert envelope.tensor.data_ptr() % 8 == 0


@pytest.mark.parametrize(
    "changes",
    [
        {"shape": (2, 3)},
        {"shape": (-2, -2)},
        {"shape": (0, -1)},
        {"shape": (2**62, 4, 2**62)},
        {"shape": (0, 2**30, 2**30, 2**30)},
        {"shape": (1,) * 9},
        {"shape": None},
        {"dtype": "object"},
        {"dtype": "bfloat16"},
        {"message": raw({"type": "Nothing"})},
        {"message": raw({"type": "Echo", "more": 1})},
        {"message": raw({"type": "Beat", "busy_seconds": "x"})},
        {"message": raw({"type": "Step"})},
        {"message": raw([])},
        {"message": raw(b"\xff")},
    ],
)
def test_malformed_contents_are_refused(changes):
    with pytest.raises(ValueError):
        decoded([header(**changes), bytes(16)])


def test_what_a_field_refuses_itself_is_malformed():
    good = msgspec.msgpack.decode(msgspec.msgpack.encode(STEP))
    good["spans"][0]["sampling"]["temperature"] = -1.0  # PromptError
    with pytest.raises(ValueError, match="temperature"):
        decoded([header(message=raw(good), shape=None)])


def test_bytes_that_belong_to_nothing_are_refused():
    (bare,), (whole,) = Numbering("a").encode(Ping()), Numbering("a").encode(Echo(), torch.zeros(4))
    for parts in ([bare + b"x"], [bare, b"x"], [whole, b""], [whole, b"x"], [whole, b"", b""]):
        with pytest.raises(ValueError):
            decoded(parts)


@pytest.mark.parametrize("data", [b"", b"\x91" * 100_000, b"\xc1", b"\x96\xa1\xff"])
def test_malformed_headers_are_refused(data):
    for frame in (data, framed(data), framed(data)[:-1]):
        with pytest.raises(ValueError):
            header_of(frame)


@given(st.binary(max_size=200), st.lists(st.binary(max_size=20), max_size=2))
def test_any_bytes_are_a_value_error_or_a_message(data, tensors):
    for first in (data, framed(data)):
        with pytest.raises(ValueError):
            decoded([first, *tensors])


@given(st.data(), st.sampled_from([6, OWN_FRAME_BYTES // 8]))
def test_any_damage_is_a_value_error_or_a_message(data, size):
    parts = [bytearray(part) for part in Numbering("a").encode(STEP, torch.arange(size))]
    for _ in range(data.draw(st.integers(1, 4))):
        part = parts[data.draw(st.integers(0, len(parts) - 1))]
        part[data.draw(st.integers(0, len(part) - 1))] = data.draw(st.integers(0, 255))
    cut = data.draw(st.integers(0, 2))
    if cut:
        del parts[0][-cut:]
    try:
        envelope = decoded(parts)
    except ValueError:
        return
    assert isinstance(envelope.message, Step)


shapes = st.none() | st.lists(st.integers(-3, 2**63 - 1) | st.integers(0, 4), max_size=10)
dtypes = st.sampled_from([*frames._DTYPES, "", "float64"])
json = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**63), 2**63) | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner),
    max_leaves=5,
)
names = st.sampled_from([kind.__name__ for kind in frames.Message.__subclasses__()])


@given(shapes, dtypes, names, st.dictionaries(st.text(max_size=5), json), st.binary(max_size=32))
def test_any_fields_are_a_value_error_or_a_message(shape, dtype, name, fields, tensor):
    message = raw({**fields, "type": name})
    shape = None if shape is None else tuple(shape)
    data = framed(msgspec.msgpack.encode(FrameHeader("a", 1, 1, shape, dtype, message)))
    try:
        envelope = decoded([data + tensor] if shape is not None else [data])
    except ValueError:
        return
    assert type(envelope.message).__name__ == name


def test_what_others_would_not_take_is_not_sent(monkeypatch):
    numbering = Numbering("a")
    for tensor in (torch.zeros(1, dtype=torch.float64), torch.zeros((1,) * 9)):
        with pytest.raises(ValueError, match="cannot be sent"):
            numbering.encode(Echo(), tensor)
    monkeypatch.setattr(frames, "MAX_MESSAGE_BYTES", 100)
    with pytest.raises(ValueError, match="more than a message may have"):
        numbering.encode(Echo(), torch.zeros(26))
    assert header_of(numbering.encode(Ping())[0]).number == 1


def test_numbers_only_grow_within_a_session():
    history, numbering = History(), Numbering("a")
    first, second = (header_of(numbering.encode(Ping())[0]) for _ in range(2))
    other = header_of(Numbering("a").encode(Ping())[0])
    heard = [history.is_new(each) for each in (first, first, second, first, other, other, second)]
    assert heard == [True, False, True, False, True, False, False]


def test_a_history_is_bounded():
    history = History()
    for _ in range(10 * frames.MAX_SESSIONS):
        assert history.is_new(header_of(Numbering("a").encode(Ping())[0]))
    assert len(history._last) == frames.MAX_SESSIONS
