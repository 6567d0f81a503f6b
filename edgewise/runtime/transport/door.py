"""Who may connect to an inbox: a thread that answers libzmq's questions (ZAP, RFC 27) and counts
the connections that were not let in (its monitor's events)."""

import logging
import threading
from collections import Counter, deque
from collections.abc import Iterable

import zmq
from zmq.utils import z85
from zmq.utils.monitor import parse_monitor_message

_ZAP = "inproc://zeromq.zap.01"
_MAX_WAITING = 64
_EVENTS = (
    zmq.EVENT_ACCEPTED
    | zmq.EVENT_HANDSHAKE_SUCCEEDED
    | zmq.EVENT_DISCONNECTED
    | zmq.EVENT_MONITOR_STOPPED
)
_logger = logging.getLogger(__name__)


class Drops(Counter[str]):
    """How often something was not let in, by reason. Logged at powers of two: a flood of frames
    must not become one of lines."""

    def count(self, reason: str, detail: object = "", level: int = logging.WARNING) -> None:
        self[reason] += 1
        if self[reason].bit_count() == 1:
            _logger.log(level, "dropped (%s), %d so far: %s", reason, self[reason], detail)


class Door:
    """Lets in the keys it was given; those of others it keeps waiting, in case they are introduced
    in time, until libzmq's handshake ends. Without `keyed` everybody is let in, and counted.

    Counts once for each connection: "unknown key", "handshake" (ended before it was through: not
    ZMTP, no CURVE, too slow), "ended" (was in, and ended: it left, or sent what libzmq refuses
    itself, such as a frame that is too long; libzmq does not tell which).
    """

    def __init__(
        self, context: zmq.Context[zmq.Socket[bytes]], inbox: zmq.Socket[bytes], keyed: bool
    ) -> None:
        self.drops = Drops()
        self._inbox = inbox
        self._keys: frozenset[bytes] = frozenset()
        self._waiting: deque[tuple[bytes, bytes, bytes]] = deque(maxlen=_MAX_WAITING)
        self._entering: list[int] = []
        self._events = inbox.get_monitor_socket(_EVENTS)
        self._questions, self._bell = context.socket(zmq.ROUTER), context.socket(zmq.DEALER)
        for socket in (self._questions, self._bell):
            socket.linger = 0
        if keyed:
            self._questions.bind(_ZAP)
            self._bell.connect(_ZAP)
        self._keyed = keyed
        self._thread = threading.Thread(target=self._watch, name="edgewise door", daemon=True)
        self._thread.start()

    def admit(self, keys: Iterable[str]) -> None:
        """From now on these public keys (z85), and no others."""
        self._keys = frozenset(z85.decode(key) for key in keys)
        if self._keyed:
            self._bell.send(b"")

    def close(self) -> None:
        """Before the inbox is closed."""
        self._inbox.disable_monitor()
        self._thread.join()
        self._bell.close()

    def _watch(self) -> None:
        poller = zmq.Poller()
        poller.register(self._questions, zmq.POLLIN)
        poller.register(self._events, zmq.POLLIN)
        watching = True
        while watching:
            ready = dict(poller.poll())
            if self._questions in ready:
                self._question(self._questions.recv_multipart())
            if self._events in ready:
                event = parse_monitor_message(self._events.recv_multipart())
                self._note(event["event"], event["value"])
                watching = event["event"] != zmq.EVENT_MONITOR_STOPPED
        self._questions.close()
        self._events.close()

    def _question(self, frames: list[bytes]) -> None:
        """A new key's, or the bell: keys that wait may have become known."""
        if len(frames) == 9:
            route, _, _, number, *_, key = frames
            self._waiting.append((route, number, key))
        for question in [each for each in self._waiting if each[2] in self._keys]:
            route, number, key = question
            self._waiting.remove(question)
            reply = (b"1.0", number, b"200", b"", z85.encode(key), b"")
            self._questions.send_multipart((route, b"", *reply))

    def _note(self, event: int, connection: int) -> None:
        # A success does not tell which connection it is of: the latest, as honest ones are quick.
        if event == zmq.EVENT_ACCEPTED:
            self._entering.append(connection)
        elif event == zmq.EVENT_HANDSHAKE_SUCCEEDED and self._entering:
            self._entering.pop()
        elif event == zmq.EVENT_DISCONNECTED:
            self._count_end(connection)

    def _count_end(self, connection: int) -> None:
        if connection not in self._entering:
            self.drops.count("ended", level=logging.DEBUG)  # most leave because they are done
            return
        self._entering.remove(connection)
        if self._waiting:
            _, _, key = self._waiting.popleft()
            self.drops.count("unknown key", z85.encode(key).decode())
        else:
            self.drops.count("handshake")
