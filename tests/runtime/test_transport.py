"""One contract for all transports: over Unix sockets, encrypted TCP, and emulated links."""

import math
import os
import threading
import time

import pytest
import torch

from edgewise.clusters import Link
from edgewise.errors import ClusterError, DeviceError, DeviceTimeout
from edgewise.runtime.messages import Beat, Echo, Peer, Ping, Pong, Probe, Stop
from edgewise.runtime.transport import emulation, zeromq
from edgewise.runtime.transport.emulation import Emulated
from edgewise.runtime.transport.zeromq import Keys, ZeroMQ

SLOW = Link("a", "b", 1e6, 0.02)
KINDS = {"ipc": None, "tcp": None, "zero link": Link("a", "b"), "slow link": SLOW}
KINDS["interface"] = Link("a", "b", 1e9)
TENSORS = [
    torch.randn(3, 5),
    torch.randn(3, 5).bfloat16(),
    torch.randn(7).half(),
    torch.arange(4),
    torch.arange(255, dtype=torch.uint8),
    torch.zeros(0, 7),
    torch.tensor(2.5),
    torch.randn(6, 4)[::2].t(),
    torch.tensor([float("nan"), float("inf"), -0.0]),
]


@pytest.fixture(params=KINDS)
def make(request, tmp_path):
    """Participants by name, closed at the end."""
    made = []

    def participant(name, links=()):
        encrypted = request.param == "tcp"
        bind = "tcp://127.0.0.1:*" if encrypted else f"ipc://{tmp_path / name}"
        transport = ZeroMQ(name, bind, Keys.make() if encrypted else None)
        link = KINDS[request.param]
        if link is not None:
            rate = 1e9 if request.param == "interface" else math.inf
            transport = Emulated(transport, {"a": link}, rate)
        made.append(transport)
        return transport

    yield participant
    for transport in made:
        transport.close()


def introduce(**participants):
    for transport in participants.values():
        transport.introduce({name: other.peer for name, other in participants.items()})


@pytest.fixture
def pair(make):
    a, b = make("a"), make("b")
    introduce(a=a, b=b)
    return a, b


def same(left, right):
    """Bit for bit."""
    return (left.dtype, left.shape) == (right.dtype, right.shape) and torch.equal(
        left.contiguous().view(-1).view(torch.uint8), right.contiguous().view(-1).view(torch.uint8)
    )


@pytest.mark.parametrize("tensor", TENSORS, ids=lambda t: f"{t.dtype}{list(t.shape)}")
def test_tensors_arrive_bit_for_bit(pair, tensor):
    a, b = pair
    a.send("b", Echo(), tensor)
    envelope = b.receive(2)
    assert (envelope.sender, envelope.message) == ("a", Echo())
    assert same(envelope.tensor, tensor)
    envelope.tensor.zero_()  # its memory is the receiver's own


def test_messages_keep_their_order(pair):
    a, b = pair

    def send():
        for number in range(200):
            a.send("b", Beat(number))

    sender = threading.Thread(target=send)
    sender.start()
    assert [b.receive(2).message.busy_seconds for _ in range(200)] == list(range(200))
    sender.join()


def test_several_threads_send(pair):
    a, b = pair

    def send(thread):
        for number in range(50):
            a.send("b", Probe(str(thread), number), torch.full((9,), number))

    threads = [threading.Thread(target=send, args=(n,)) for n in range(4)]
    for thread in threads:
        thread.start()
    sizes = {str(n): [] for n in range(4)}
    for _ in range(200):
        envelope = b.receive(2)
        sizes[envelope.message.target].append(envelope.message.size)
        assert envelope.tensor.tolist() == [envelope.message.size] * 9
    for thread in threads:
        thread.join()
    assert all(numbers == list(range(50)) for numbers in sizes.values())


@pytest.mark.timing
def test_a_post_wakes_whoever_waits(pair):
    _, b = pair
    timer = threading.Timer(0.1, b.post, [Stop()])
    timer.start()
    began = time.monotonic()
    envelope = b.receive(10)
    assert 0.09 <= time.monotonic() - began < 1
    assert (envelope.sender, envelope.message, envelope.tensor) == ("b", Stop(), None)
    timer.join()


def test_a_post_to_one_that_is_closed_is_lost_without_a_word(make):
    """Whoever waits for a process to end may be a moment late."""
    closed = make("closed")
    closed.close()
    closed.post(Stop())


@pytest.mark.timing
def test_nothing_comes_in_time(pair):
    for seconds in (0.0, 0.0505):
        began = time.monotonic()
        assert pair[1].receive(seconds) is None
        assert seconds <= time.monotonic() - began < seconds + 0.3


def test_only_who_is_introduced_is_heard_and_reached(make):
    a, b, c = make("a"), make("b"), make("c")
    introduce(a=a, b=b)
    with pytest.raises(DeviceError, match="device 'c'") as error:
        a.send("c", Ping())
    assert error.value.device == "c"
    c.introduce({"b": b.peer})
    c.send("b", Ping())
    assert b.receive(0.2) is None
    introduce(a=a, b=b, c=c)
    c.send("b", Pong())
    answers = [b.receive(2).message]
    if answers == [Ping()]:  # where it was held back rather than dropped
        answers.append(b.receive(2).message)
    assert answers[-1] == Pong()
    a.introduce({"c": c.peer})
    with pytest.raises(DeviceError, match="device 'b'"):
        a.send("b", Ping())
    b.introduce({"c": c.peer})
    assert b.receive(0.05) is None


def test_a_peer_may_move(make):
    a, b, moved = make("a"), make("b"), make("elsewhere")
    introduce(a=a, b=b)
    a.send("b", Ping())
    assert b.receive(2).message == Ping()
    introduce(a=a, b=moved)
    a.send("b", Pong())
    assert moved.receive(2).message == Pong()
    introduce(a=a, b=b)  # and back, with numbers that start anew
    a.send("b", Stop())
    assert b.receive(2).message == Stop()


@pytest.mark.timing
def test_a_peer_that_takes_nothing_is_named_and_blocks_no_other(make, monkeypatch):
    monkeypatch.setattr(zeromq, "SEND_SECONDS", 0.3)
    monkeypatch.setattr(emulation, "MAX_WAITING_MESSAGES", 4)
    a, b, c = make("a"), make("b"), make("c")
    introduce(a=a, b=b, c=c)
    blocked = []

    def fill():
        try:
            for _ in range(5000):
                a.send("b", Echo(), torch.zeros(2**18))
        except DeviceTimeout as error:
            blocked.append(error)

    thread = threading.Thread(target=fill)
    thread.start()
    latest = 0.0
    while thread.is_alive():
        began = time.monotonic()
        a.send("c", Ping())
        assert c.receive(2).message == Ping()
        latest = max(latest, time.monotonic() - began)
    thread.join()
    assert latest < 0.2
    assert blocked[0].device == "b"


def test_nothing_is_left_behind(make, tmp_path):
    threads, files = threading.active_count(), len(os.listdir("/proc/self/fd"))
    a, b = make("a"), make("b")
    introduce(a=a, b=b)
    a.send("b", Ping())
    a.send("b", Echo(), torch.zeros(3))
    assert [b.receive(2).message for _ in range(2)] == [Ping(), Echo()]
    for transport in (a, b, a, b):
        transport.close()
    assert threading.active_count() == threads
    assert len(os.listdir("/proc/self/fd")) == files
    assert list(tmp_path.iterdir()) == []


@pytest.fixture
def slow(tmp_path):
    a = ZeroMQ("a", f"ipc://{tmp_path / 'a'}")
    quick = ZeroMQ("quick", f"ipc://{tmp_path / 'quick'}")
    b = Emulated(ZeroMQ("b", f"ipc://{tmp_path / 'b'}"), {"a": SLOW})
    introduce(a=a, b=b, quick=quick)
    yield a, b, quick
    for transport in (a, b, quick):
        transport.close()


@pytest.mark.timing
def test_an_emulated_link_takes_bandwidth_and_latency(slow):
    a, b, _ = slow
    began = time.monotonic()
    for _ in range(2):
        a.send("b", Echo(), torch.zeros(50_000, dtype=torch.uint8))
    time.sleep(0.03)  # its owner computes: the link works on
    arrivals = [time.monotonic() - began for _ in range(2) if b.receive(1)]
    # 50 kB at 1 MB/s take 50 ms; the second waits for the first; the latency overlaps.
    assert arrivals == pytest.approx([0.07, 0.12], abs=0.02)
    assert arrivals[0] >= 0.07
    assert arrivals[1] >= 0.12


PART = torch.zeros(50_000, dtype=torch.uint8)  # 50 ms at 1 MB/s


@pytest.fixture
def hub(tmp_path):
    """A hub with an interface of 1 MB/s, which its links share."""
    one, two = (ZeroMQ(name, f"ipc://{tmp_path / name}") for name in ("one", "two"))
    links = {name: Link(name, "hub", 1e6) for name in ("one", "two")}  # as fast as the interface
    hub = Emulated(ZeroMQ("hub", f"ipc://{tmp_path / 'hub'}"), links, 1e6)
    introduce(hub=hub, one=one, two=two)
    yield hub, one, two
    for transport in (hub, one, two):
        transport.close()


@pytest.mark.timing
def test_messages_to_different_devices_share_the_interface_they_leave_by(hub):
    """The first is not held back, as no link is emulated where it arrives: the others leave after
    it, and what is no traffic leaves at once."""
    hub, one, two = hub
    part = PART.clone()
    began = time.monotonic()
    for target in ("one", "two", "one"):
        hub.send(target, Echo(), part)
    part.fill_(1)  # its memory is the caller's again
    hub.send("two", Ping())
    assert two.receive(1).message == Ping()
    waiting = ((x.receive(1), time.monotonic() - began) for x in (one, two, one))
    envelopes, arrivals = zip(*waiting, strict=True)
    assert arrivals == pytest.approx([0.0, 0.05, 0.1], abs=0.02)
    assert arrivals[1] >= 0.05
    assert arrivals[2] >= 0.1
    assert all(same(envelope.tensor, PART) for envelope in envelopes)


@pytest.mark.timing
def test_messages_from_different_devices_share_the_interface_where_they_arrive(hub):
    hub, one, two = hub
    began = time.monotonic()
    one.send("hub", Echo(), PART)
    two.send("hub", Echo(), PART)
    arrivals = [time.monotonic() - began for _ in range(2) if hub.receive(1)]
    assert arrivals == pytest.approx([0.05, 0.1], abs=0.02)
    assert arrivals[0] >= 0.05
    assert arrivals[1] >= 0.1


@pytest.mark.timing
def test_what_is_sent_and_what_is_received_pass_the_interface_at_the_same_time(hub):
    hub, one, two = hub
    began = time.monotonic()
    for _ in range(2):
        hub.send("one", Echo(), PART)
    two.send("hub", Echo(), PART)
    assert hub.receive(1).sender == "two"
    assert time.monotonic() - began == pytest.approx(0.05, abs=0.02)
    assert [one.receive(1).sender for _ in range(2)] == ["hub", "hub"]
    assert time.monotonic() - began == pytest.approx(0.05, abs=0.02)


def test_what_cannot_be_sent_is_said_with_a_later_one(hub):
    hub, one, _ = hub
    hub.send("one", Echo(), torch.zeros(2, dtype=torch.complex64))
    sent, deadline = 0, time.monotonic() + 5
    with pytest.raises(ValueError, match="cannot be sent"):
        while time.monotonic() < deadline:
            hub.send("one", Echo(), torch.zeros(2))
            sent += 1
            time.sleep(0.01)
    hub.send("one", Echo(), torch.ones(2))
    came = [one.receive(1).tensor.tolist() for _ in range(sent + 1)]
    assert came == [[0, 0]] * sent + [[1, 1]]


def test_other_senders_and_what_sets_up_do_not_wait_for_an_emulated_link(slow):
    a, b, quick = slow
    a.send("b", Echo())
    time.sleep(0.005)
    quick.send("b", Echo())
    assert b.receive(1).sender == "quick"
    a.send("b", Ping())
    assert [b.receive(1).message for _ in range(2)] == [Ping(), Echo()]


@pytest.mark.parametrize(
    ("bind", "keys"),
    [
        ("tcp://0.0.0.0:*", None),
        ("tcp://8.8.8.8:1", None),
        ("tcp://example.com:1", None),
        ("tcp://192.0.2.1:1", Keys.make()),  # not an address of this machine
        ("udp://127.0.0.1:1", None),
        ("ipc:///nowhere/at/all", None),
    ],
)
def test_an_address_that_is_open_to_others_or_none_is_refused(bind, keys):
    with pytest.raises(ClusterError):
        ZeroMQ("a", bind, keys)


def test_all_have_keys_or_none(tmp_path):
    a = ZeroMQ("a", f"ipc://{tmp_path / 'a'}")
    keyed = Peer("tcp://127.0.0.1:1", Keys.make().public)
    for peer in (keyed, Peer("tcp://192.0.2.1:1")):
        with pytest.raises(ClusterError):
            a.introduce({"b": peer})
    a.close()


@pytest.mark.parametrize("key", ["short", "\u00fc" * 40, " " * 40, "#" * 40, "0" * 41])
def test_a_malformed_key_is_refused(key):
    a = ZeroMQ("a", "tcp://127.0.0.1:*", Keys.make())
    with pytest.raises(ClusterError, match="key of 'b'"):
        a.introduce({"b": Peer("tcp://127.0.0.1:1", key)})
    a.close()
