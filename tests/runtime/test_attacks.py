"""Attacks on the open port of two peers that talk: nothing crashes, all is counted, and the peers
go on hearing each other."""

import os
import socket
import time
from contextlib import suppress

import msgspec
import pytest
import torch
import zmq

from edgewise.runtime.messages import Beat, Echo, Ping
from edgewise.runtime.transport import frames, zeromq
from edgewise.runtime.transport.frames import Numbering
from edgewise.runtime.transport.zeromq import Keys, ZeroMQ

KEYED = pytest.mark.parametrize("pair", ["tcp + CURVE"], indirect=True)
INSIDER = Keys.make()  # of somebody who is introduced, and does not behave


@pytest.fixture(params=["ipc", "tcp", "tcp + CURVE"])
def pair(request, tmp_path, monkeypatch):
    """a and b talk over b's inbox, which "insider" may use as well."""
    monkeypatch.setattr(zeromq, "HANDSHAKE_SECONDS", 0.5)
    monkeypatch.setattr(frames, "MAX_MESSAGE_BYTES", 2**20)
    monkeypatch.setattr(zeromq, "MAX_MESSAGE_BYTES", 2**20)
    keyed = request.param == "tcp + CURVE"

    def participant(name):
        bind = f"ipc://{tmp_path / name}" if request.param == "ipc" else "tcp://127.0.0.1:*"
        return ZeroMQ(name, bind, Keys.make() if keyed else None)

    a, b = participant("a"), participant("b")
    a.introduce({"b": b.peer})
    insider = zeromq.Peer("tcp://127.0.0.1:9", INSIDER.public if keyed else "")
    b.introduce({"a": a.peer, "insider": insider})
    heard(a, b)
    yield a, b
    heard(a, b)
    a.close()
    b.close()


def heard(a, b):
    """The honest peer's messages still arrive, within a second."""
    began = time.monotonic()
    a.send("b", Beat(began), torch.tensor([7]))
    while (envelope := b.receive(1)).message != Beat(began):
        pass
    assert time.monotonic() - began < 1
    assert (envelope.sender, envelope.tensor.tolist()) == ("a", [7])


def counted(b, reason, at_least=1):
    deadline = time.monotonic() + 3
    while b.dropped.get(reason, 0) < at_least:
        assert time.monotonic() < deadline, b.dropped
        assert b.receive(0.02) is None


@pytest.fixture
def attacker(pair):
    """Sockets of a context of its own, connected to b."""
    context, sockets = zmq.Context(), []

    def connect(keys=None, server_key=None):
        push = context.socket(zmq.PUSH)
        sockets.append(push)
        push.linger, push.sndtimeo = 0, 1000
        if keys is not None:
            push.curve_publickey, push.curve_secretkey = keys.public.encode(), keys.secret.encode()
            push.curve_serverkey = (server_key or pair[1].peer.key).encode()
        push.connect(pair[1].peer.address)
        return push

    yield connect
    for push in sockets:
        push.close()
    context.term()


@pytest.fixture
def insider(pair, attacker):
    return attacker(INSIDER if pair[1].peer.key else None)


def plain(address):
    """A connection without ZMTP."""
    if address.startswith("ipc://"):
        connection = socket.socket(socket.AF_UNIX)
        connection.connect(address.removeprefix("ipc://"))
        return connection
    host, port = address.removeprefix("tcp://").split(":")
    return socket.create_connection((host, int(port)))


@pytest.mark.parametrize(
    "start", [b"", b"\xff" + bytes(8) + b"\x7f\x03", b"GET / HTTP/1.1\r\n\r\n"]
)
def test_random_bytes(pair, start):
    for _ in range(20):
        with plain(pair[1].peer.address) as connection:
            with suppress(ConnectionError):  # cut already
                connection.sendall(start + os.urandom(1000))
            heard(*pair)
    deadline = time.monotonic() + 3
    # Without keys, ZMTP 1.0 is let in: bytes that look like a connection of it end as one.
    while sum(pair[1].dropped.values()) < 20 and time.monotonic() < deadline:
        pair[1].receive(0.02)
    assert sum(pair[1].dropped.values()) >= 20, pair[1].dropped


def test_a_connection_that_says_nothing(pair):
    with plain(pair[1].peer.address):
        heard(*pair)
        counted(pair[1], "handshake")


@KEYED
def test_a_peer_without_encryption(pair, attacker):
    push = attacker()
    push.send_multipart(Numbering("insider").encode(Ping()))
    counted(pair[1], "handshake")


@KEYED
def test_an_unknown_key(pair, attacker):
    attacker(Keys.make()).send_multipart(Numbering("a").encode(Ping()))
    heard(*pair)
    counted(pair[1], "unknown key")


@KEYED
def test_another_server_key(pair, attacker):
    attacker(INSIDER, Keys.make().public).send_multipart(Numbering("a").encode(Ping()))
    counted(pair[1], "handshake")


@KEYED
def test_a_known_key_with_another_name(pair, insider):
    insider.send_multipart(Numbering("a").encode(Ping()))
    counted(pair[1], "false sender")


def test_an_unknown_name(pair, insider):
    insider.send_multipart(Numbering("nobody").encode(Ping()))
    counted(pair[1], "unknown sender")


def good(**changes):
    header = frames.header_of(Numbering("insider").encode(Echo(), torch.zeros(2, 2))[0])
    encoded = msgspec.msgpack.encode(msgspec.structs.replace(header, **changes))
    return len(encoded).to_bytes(4, "little") + encoded


@pytest.mark.parametrize(
    "parts",
    [
        [b""],
        [b"", b""],
        [os.urandom(100)],
        [b"\x91" * 10_000],
        [good()[:-3], bytes(16)],
        [good()],
        [good() + bytes(15)],
        [good() + bytes(16), bytes(16)],
        [b"\xff\xff\xff\xff" + good()[4:] + bytes(16)],
        [good(), bytes(15)],
        [good(), bytes(16), bytes(16)],
        [good(shape=(-2, -2)), bytes(16)],
        [good(shape=(2**40, 2**40)), bytes(16)],
        [good(dtype="object"), bytes(16)],
        [good(message=msgspec.Raw(msgspec.msgpack.encode({"type": "Run"}))), bytes(16)],
        [good(message=msgspec.Raw(b"\xc1")), bytes(16)],
    ],
    ids=range(16),
)
def test_malformed_frames(pair, insider, parts):
    insider.send_multipart(parts)
    counted(pair[1], "malformed")


def test_an_oversized_frame(pair, insider):
    insider.send_multipart([good(), bytes(2**20 + 1)])
    counted(pair[1], "ended")


def test_a_replayed_frame(pair, insider):
    parts = [bytes(part) for part in Numbering("insider").encode(Ping())]
    for _ in range(3):
        insider.send_multipart(parts)
    assert pair[1].receive(1).message == Ping()
    counted(pair[1], "repeated", 2)


def test_a_flood_of_frames(pair, insider):
    sent, end = 0, time.monotonic() + 1
    insider.sndtimeo = 0
    while time.monotonic() < end:
        try:
            while True:
                insider.send(b"\xc1" * 1000)
                sent += 1
        except zmq.Again:
            heard(*pair)
    assert sent > 100
    counted(pair[1], "malformed", 100)


def test_a_flood_of_connections(pair):
    connections = [plain(pair[1].peer.address) for _ in range(200)]
    heard(*pair)
    for connection in connections:
        connection.close()
    counted(pair[1], "handshake", 200)
