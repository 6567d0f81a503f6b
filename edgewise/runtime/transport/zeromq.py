"""The transport between processes and machines: ZeroMQ over Unix sockets or TCP, there encrypted
and authenticated by CURVE (RFC 26).

Each participant binds one PULL socket, its inbox, and connects one PUSH socket to each target's.
Whatever waits is bounded: QUEUED_MESSAGES on either side of a connection.
"""

import math
import secrets
import struct
import threading
import time
from collections import deque
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from ipaddress import ip_address
from pathlib import Path
from urllib.parse import urlsplit

import zmq
from torch import Tensor
from zmq.utils import z85

from edgewise.errors import ClusterError, DeviceError, DeviceTimeout
from edgewise.runtime.messages import Message, Peer
from edgewise.runtime.transport import Envelope
from edgewise.runtime.transport.door import Door
from edgewise.runtime.transport.frames import (
    MAX_MESSAGE_BYTES,
    FrameHeader,
    History,
    Numbering,
    envelope_of,
    header_of,
)

SEND_SECONDS = 5.0
HANDSHAKE_SECONDS = 5.0
QUEUED_MESSAGES = 16
_LOOK_SECONDS = 0.1  # how soon a send that waits sees that its target has left
_SELF = "inproc://self"

Socket = zmq.Socket[bytes]


@dataclass(frozen=True, slots=True)
class Keys:
    """A participant's CURVE key pair, both in z85."""

    public: str
    secret: str = field(repr=False)

    @staticmethod
    def make() -> "Keys":
        public, secret = zmq.curve_keypair()
        return Keys(public.decode(), secret.decode())


class ZeroMQ:
    """A `Transport`. `bind` is ipc://PATH or tcp://HOST:PORT, PORT * for any that is free.

    Drops by reason: Door's, "malformed", "unknown sender", "false sender" (a name that does not
    belong to the connection's key), "repeated".
    """

    def __init__(self, name: str, bind: str, keys: Keys | None = None) -> None:
        """Raises ClusterError where `bind` is no address to bind to, or would let messages travel
        between machines in clear."""
        _check(bind, keys is not None)
        self.name, self._bind, self._keys = name, bind, keys
        self._context: zmq.Context[Socket] = zmq.Context()
        self._known: dict[str, _Known] = {}
        self._ways: dict[str, _Way] = {}
        self._lock = threading.Lock()  # of the two above
        self._posted: deque[Message] = deque()
        self._ring = secrets.token_bytes(16)  # says that there is something posted
        self._inbox, self._milliseconds = self._socket(zmq.PULL, bind), -1
        if keys is not None:
            self._inbox.curve_server = True
            self._inbox.curve_secretkey = keys.secret.encode()
        self._door = Door(self._context, self._inbox, keys is not None)
        self._inbox.bind(_SELF)
        # A signal's handler may post in the middle of a post of its thread.
        self._bell, self._bell_lock = self._context.socket(zmq.PUSH), threading.RLock()
        self._bell.linger = 0
        self._bell.connect(_SELF)
        try:
            self._inbox.bind(bind)
        except zmq.ZMQError as error:
            self.close()
            raise ClusterError(f"nothing can be received at {bind}: {error.strerror}") from None
        address = self._inbox.get_string(zmq.LAST_ENDPOINT)
        self._peer = Peer(address, keys.public if keys is not None else "")

    @property
    def peer(self) -> Peer:
        return self._peer

    @property
    def dropped(self) -> Mapping[str, int]:
        return dict(self._door.drops)

    def introduce(self, peers: Mapping[str, Peer]) -> None:
        """Raises ClusterError where what is sent to one of them would travel in clear between
        machines, where some have keys and others not, and where a key is malformed."""
        for name, peer in peers.items():
            if bool(peer.key) != (self._keys is not None):
                raise ClusterError(f"'{name}' and '{self.name}' must both have a key, or neither")
            if peer.key and not _is_key(peer.key):
                raise ClusterError(f"the key of '{name}' is none")
            _check(peer.address, bool(peer.key))
        with self._lock:
            before, self._known = (
                self._known,
                {name: _Known(peer, self._history(name, peer)) for name, peer in peers.items()},
            )
            left = [
                self._ways.pop(name)
                for name, known in before.items()
                if name in self._ways and peers.get(name) != known.peer
            ]
            self._door.admit(peer.key for peer in peers.values() if peer.key)
        for way in left:
            way.close()

    def _history(self, name: str, peer: Peer) -> History:
        known = self._known.get(name)
        return known.history if known is not None and known.peer == peer else History()

    def send(self, target: str, message: Message, tensor: Tensor | None = None) -> None:
        with self._lock:
            way = self._ways.get(target) or self._connect(target)
        way.send(message, tensor)

    def _connect(self, target: str) -> "_Way":
        known = self._known.get(target)
        if known is None:
            raise DeviceError(target, f"is nobody that '{self.name}' knows")
        socket = self._socket(zmq.PUSH, known.peer.address)
        socket.sndtimeo = round(_LOOK_SECONDS * 1000)
        if self._keys is not None:
            socket.curve_publickey = self._keys.public.encode()
            socket.curve_secretkey = self._keys.secret.encode()
            socket.curve_serverkey = known.peer.key.encode()
        try:
            socket.connect(known.peer.address)
        except zmq.ZMQError as error:
            socket.close()
            raise DeviceError(target, f"has no address, {known.peer.address}: {error}") from None
        way = self._ways[target] = _Way(socket, target, Numbering(self.name))
        return way

    def _socket(self, kind: int, address: str) -> Socket:
        socket = self._context.socket(kind)
        socket.linger = 0
        socket.ipv6 = "[" in address
        socket.maxmsgsize = MAX_MESSAGE_BYTES
        socket.sndhwm = socket.rcvhwm = QUEUED_MESSAGES
        socket.handshake_ivl = round(HANDSHAKE_SECONDS * 1000)
        return socket

    def receive(self, timeout_seconds: float) -> Envelope | None:
        deadline = time.monotonic() + timeout_seconds
        while True:
            if self._posted:
                return Envelope(self.name, self._posted.popleft())
            remaining = deadline - time.monotonic()
            frames = self._take(remaining)
            envelope = self._admit(frames) if frames else None
            if envelope is not None:
                return envelope
            if remaining <= 0:
                return None

    def _take(self, seconds: float) -> list[zmq.Frame]:
        """The next frames, none when they do not come in time."""
        milliseconds = max(math.ceil(seconds * 1000), 0)
        if milliseconds != self._milliseconds:  # setting it takes longer than receiving does
            self._inbox.rcvtimeo = self._milliseconds = milliseconds
        try:
            return self._inbox.recv_multipart(copy=False)
        except zmq.Again:
            return []

    def _admit(self, frames: list[zmq.Frame]) -> Envelope | None:
        if len(frames) == 1 and frames[0].bytes == self._ring:
            return None
        try:
            header = header_of(frames[0].buffer)
            if reason := self._refusal(header, frames[0]):
                self._door.drops.count(reason, header.sender)
                return None
            return envelope_of(header, [frame.buffer for frame in frames])
        except ValueError as error:
            self._door.drops.count("malformed", error)
            return None

    def _refusal(self, header: FrameHeader, frame: zmq.Frame) -> str:
        """Why somebody's frame is not let in, "" where it is."""
        known = self._known.get(header.sender)
        if known is None:
            return "unknown sender"
        if self._keys is not None and _proven_key(frame) != known.peer.key:
            return "false sender"
        return "" if known.history.is_new(header) else "repeated"

    def post(self, message: Message) -> None:
        self._posted.append(message)
        with self._bell_lock, suppress(zmq.Again):  # where it has rung often enough
            if not self._bell.closed:  # threads that post may outlive it by a moment
                self._bell.send(self._ring, zmq.NOBLOCK)

    def close(self) -> None:
        if self._context.closed:
            return
        with self._lock:
            ways, self._ways, self._known = list(self._ways.values()), {}, {}
        for way in ways:
            way.close()
        self._door.close()
        with self._bell_lock:
            self._bell.close()
        self._inbox.close()
        self._context.term()
        if self._bind.startswith("ipc://"):
            Path(self._bind.removeprefix("ipc://")).unlink(missing_ok=True)


@dataclass(frozen=True, slots=True)
class _Known:
    peer: Peer
    history: History


class _Way:
    """The connection to one target, used by one thread at a time."""

    def __init__(self, socket: Socket, target: str, numbering: Numbering) -> None:
        self._socket, self._target, self._numbering = socket, target, numbering
        self._lock = threading.Lock()
        self._ended = False

    def send(self, message: Message, tensor: Tensor | None) -> None:
        deadline = time.monotonic() + SEND_SECONDS
        with self._lock:
            frames = self._numbering.encode(message, tensor)
            while not self._ended:
                try:
                    self._socket.send_multipart(frames)
                    return
                except zmq.Again:
                    if time.monotonic() >= deadline:
                        raise DeviceTimeout(
                            self._target, f"took no message for {SEND_SECONDS:g} s"
                        ) from None
        raise DeviceError(self._target, "has left")

    def close(self) -> None:
        self._ended = True
        with self._lock:
            self._socket.close()


def _proven_key(frame: zmq.Frame) -> str:
    try:
        return str(frame.get("User-Id"))
    except zmq.ZMQError:
        return ""  # from this process: not by CURVE


def _is_key(key: str) -> bool:
    try:
        return len(key) == 40 and len(z85.decode(key)) == 32
    except (ValueError, KeyError, struct.error):
        return False


def _check(address: str, keyed: bool) -> None:
    """Raises ClusterError where messages would travel between machines in clear."""
    parts = urlsplit(address)
    if parts.scheme not in ("ipc", "tcp"):
        raise ClusterError(f"'{address}' is neither ipc://PATH nor tcp://HOST:PORT")
    if parts.scheme == "tcp" and not keyed and not _is_loopback(parts.hostname or ""):
        raise ClusterError(f"{address} is not this machine's alone: keys are needed")


def _is_loopback(host: str) -> bool:
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
