"""Messages over real sockets: contents, emulated links, malformed frames, closed descriptors."""

import json
import math
import os
import time

import pytest
import torch
import zmq

from edgewise.clusters import Device, Link
from edgewise.errors import DeviceTimeout
from edgewise.runtime import transport
from edgewise.runtime.settings import Settings
from edgewise.runtime.transport import Inbox, Message, Outbox, frames_of, message_of


@pytest.fixture
def pair(tmp_path):
    """An inbox with an emulated link from "slow" (1 MB/s, 20 ms), and senders into it."""
    context = zmq.Context()
    address = f"ipc://{tmp_path / 'inbox'}"
    inbox = Inbox(context, address, {"slow": Link("slow", "me", 1e6, 0.02)})
    outboxes = {name: Outbox(context, name, {"me": address}) for name in ("slow", "quick")}
    yield inbox, outboxes
    for outbox in outboxes.values():
        outbox.close()
    inbox.close()
    context.destroy(linger=0)


@pytest.mark.parametrize(
    "tensor",
    [
        None,
        torch.randn(3, 5),
        torch.arange(4),
        torch.zeros(0, 7),
        torch.tensor(2.5),
        torch.randn(6, 4)[::2].t(),
    ],
)
def test_what_is_sent_arrives(pair, tensor):
    inbox, outboxes = pair
    outboxes["quick"].send("me", "step", {"a": [1, 2.5, None, "x"]}, tensor)
    message = inbox.receive(1)
    assert (message.kind, message.sender) == ("step", "quick")
    assert message.body == {"a": [1, 2.5, None, "x"]}
    if tensor is None:
        assert message.tensor is None
    else:
        assert message.tensor.dtype == tensor.dtype
        assert torch.equal(message.tensor, tensor)


def test_nothing_comes_in_time(pair):
    began = time.monotonic()
    assert pair[0].receive(0.05) is None
    assert 0.05 <= time.monotonic() - began < 0.5


def test_an_emulated_link_takes_bandwidth_and_latency(pair):
    inbox, outboxes = pair
    began = time.monotonic()
    for _ in range(2):
        outboxes["slow"].send("me", "step", {}, torch.zeros(50_000, dtype=torch.uint8))
    arrivals = [time.monotonic() - began for _ in range(2) if inbox.receive(1)]
    # 50 kB at 1 MB/s take 50 ms; the second waits for the first; the latency overlaps.
    assert arrivals == pytest.approx([0.07, 0.12], abs=0.02)
    assert arrivals[0] >= 0.07
    assert arrivals[1] >= 0.12


def test_two_messages_share_the_interface_they_leave_by(tmp_path):
    context, part = zmq.Context(), torch.zeros(50_000, dtype=torch.uint8)
    addresses = {name: f"ipc://{tmp_path / name}" for name in ("one", "two")}
    inboxes = [Inbox(context, addresses[name], {"hub": Link("hub", name)}) for name in addresses]
    outbox = Outbox(context, "hub", addresses, 1e6)
    began = time.monotonic()
    for name in ("one", "two", "one"):
        outbox.send(name, "step", {}, part)
    outbox.send("two", "loaded", {})
    assert inboxes[1].receive(1).kind == "loaded"
    # The first is not held back here, as no link is emulated: the second and third leave after it.
    arrivals = [inbox.receive(1) and time.monotonic() - began for inbox in (*inboxes, inboxes[0])]
    assert arrivals == pytest.approx([0.0, 0.05, 0.1], abs=0.02)
    assert arrivals[1] >= 0.05
    assert arrivals[2] >= 0.1
    for socket in (outbox, *inboxes):
        socket.close()
    context.destroy(linger=0)


def test_senders_share_the_interface_where_they_arrive(tmp_path):
    context, address = zmq.Context(), f"ipc://{tmp_path / 'hub'}"
    links = {name: Link(name, "hub", 1e6) for name in ("one", "two")}  # as fast as the interface
    inbox = Inbox(context, address, links, 1e6)
    outboxes = [Outbox(context, name, {"hub": address}) for name in (*links, "here")]
    began = time.monotonic()
    for outbox in outboxes:
        outbox.send("hub", "step", {}, torch.zeros(50_000, dtype=torch.uint8))
    arrivals = [(inbox.receive(1).sender, time.monotonic() - began) for _ in range(3)]
    assert arrivals[0][0] == "here"  # no link leads here from itself
    assert [at for _, at in arrivals] == pytest.approx([0.0, 0.05, 0.1], abs=0.02)
    assert arrivals[2][1] >= 0.1
    for socket in (inbox, *outboxes):
        socket.close()
    context.destroy(linger=0)


@pytest.mark.parametrize("rate", [1e6, math.inf])
def test_a_worker_is_told_of_its_interface(rate):
    device = Device("hub", 10**9, interface_bytes_per_second=rate)
    settings = Settings(device, {"hub": "ipc://1"}, {"one": Link("one", "hub", rate)}, "turns")
    assert Settings.from_json(settings.to_json()) == settings


def test_a_quick_sender_overtakes_a_slow_one(pair):
    inbox, outboxes = pair
    outboxes["slow"].send("me", "step", {})
    outboxes["quick"].send("me", "token", {})
    assert [inbox.receive(1).kind for _ in range(2)] == ["token", "step"]


def test_setting_up_does_not_wait_for_emulated_links(pair):
    inbox, outboxes = pair
    outboxes["slow"].send("me", "step", {})
    outboxes["slow"].send("me", "loaded", {})
    assert [inbox.receive(1).kind for _ in range(2)] == ["loaded", "step"]


def test_messages_of_one_sender_keep_their_order(pair):
    inbox, outboxes = pair
    for number in range(100):
        outboxes["slow"].send("me", "step", {"number": number})
    assert [inbox.receive(1).body["number"] for _ in range(100)] == list(range(100))


def test_a_closed_descriptor_is_reported_once(pair):
    inbox, _ = pair
    read, write = os.pipe()
    inbox.watch(read, "pi")
    assert inbox.receive(0.01) is None
    os.close(write)
    assert inbox.receive(1) == Message("gone", "pi")
    assert inbox.receive(0.01) is None
    os.close(read)


def test_a_target_that_stops_reading_is_a_timeout(tmp_path, monkeypatch):
    monkeypatch.setattr(transport, "SEND_TIMEOUT_SECONDS", 0.05)
    context = zmq.Context()
    outbox = Outbox(context, "me", {"pi": f"ipc://{tmp_path / 'nobody'}"})
    with pytest.raises(DeviceTimeout, match="device 'pi' took no message for"):
        for _ in range(5000):
            outbox.send("pi", "step", {})
    outbox.close()
    context.destroy(linger=0)


def malformed(**changes):
    header = json.loads(frames_of(Message("step", "pi", {}, torch.zeros(2, 2)), 0.0)[0])
    return [json.dumps({**header, **changes}).encode(), bytes(16)]


@pytest.mark.parametrize(
    "frames",
    [
        malformed(shape=[2, 3]),
        malformed(shape=[-1, 4]),
        malformed(shape=[2, 2])[:1],
        malformed(dtype="object"),
        malformed(body=[]),
        [b"not json"],
    ],
)
def test_malformed_frames_are_refused(frames):
    with pytest.raises((ValueError, KeyError)):
        message_of(frames)


def test_a_closed_descriptor_is_not_lost_behind_a_message(pair):
    inbox, outboxes = pair
    read, write = os.pipe()
    inbox.watch(read, "pi")
    outboxes["quick"].send("me", "first", {})
    outboxes["quick"].send("me", "second", {})
    os.close(write)
    time.sleep(0.05)
    assert [inbox.receive(1).kind for _ in range(3)] == ["first", "second", "gone"]
    os.close(read)
