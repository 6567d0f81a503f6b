"""An agent: what `edgewise join` runs. It asks to be let in, starts and ends this machine's worker
as the coordinator wants it, and ends it when the coordinator is gone."""

import contextlib
import time
from collections.abc import Callable
from queue import Empty, SimpleQueue
from urllib.parse import urlsplit

import msgspec
import zmq

from edgewise.clusters import Device
from edgewise.errors import DeviceError, InputError
from edgewise.runtime import messages
from edgewise.runtime.launchers.agents import BEAT_SECONDS, MOST_BYTES
from edgewise.runtime.launchers.invitation import Invitation
from edgewise.runtime.launchers.local import LocalLauncher
from edgewise.runtime.messages import Message, Peer
from edgewise.runtime.settings import Settings
from edgewise.runtime.transport.zeromq import Keys

ANSWER_SECONDS = 5.0  # for being let in
GONE_SECONDS = 10.0  # of silence, after which the coordinator is gone
LEAST_PAUSE, MOST_PAUSE = 1.0, 30.0  # before asking again

FROM_COORDINATOR = (
    messages.Welcome | messages.Refused | messages.StartWorker | messages.EndWorker | messages.Beat
)


class _Left(Exception):
    """The coordinator is gone, or wants nothing more of this agent for now."""


class Agent:
    """This machine's device in somebody's cluster. `say` is told what happens, in words."""

    def __init__(
        self,
        address: str,
        invitation: Invitation,
        device: Device,
        *,
        host: str = "",
        say: Callable[[str], None] = lambda text: None,
    ) -> None:
        self._address, self._invitation, self._say = address, invitation, say
        self._device, self._host = device, host
        self._server = urlsplit(address).hostname or ""
        self._decoder = msgspec.msgpack.Decoder(FROM_COORDINATOR)
        self._ended: SimpleQueue[messages.Ended] = SimpleQueue()

    def run(self) -> None:
        """Serve until interrupted. Raises InputError where the coordinator refuses for good."""
        pause = LEAST_PAUSE
        with contextlib.closing(LocalLauncher(self._ended.put)) as launcher:
            while True:
                launcher.prepare()  # whoever lets this device in waits for its worker
                context = zmq.Context()
                try:
                    socket = self._connect(context)
                    welcome = self._ask(socket)
                    self._say(f"joined {self._address} as '{self._device.name}'")
                    launcher.switch(welcome.program)
                    launcher.prepare()
                    pause = LEAST_PAUSE
                    self._serve(socket, launcher, welcome)
                except _Left as left:
                    self._say(f"{left}; asking again in {pause:g} s")
                finally:
                    launcher.end(self._device.name)
                    context.destroy(linger=0)
                time.sleep(pause)
                pause = min(2 * pause, MOST_PAUSE)

    def _connect(self, context: "zmq.Context[zmq.Socket[bytes]]") -> "zmq.Socket[bytes]":
        keys, socket = Keys.make(), context.socket(zmq.DEALER)
        for option, value in ((zmq.LINGER, 0), (zmq.MAXMSGSIZE, MOST_BYTES)):
            socket.setsockopt(option, value)
        socket.curve_serverkey = self._invitation.key.encode()
        socket.curve_publickey, socket.curve_secretkey = keys.public.encode(), keys.secret.encode()
        socket.connect(self._address)
        return socket

    def _ask(self, socket: "zmq.Socket[bytes]") -> messages.Welcome:
        join = messages.JoinRequest(self._invitation.secret, self._device, self._host)
        socket.send(msgspec.msgpack.encode(join))
        answer = self._receive(socket, ANSWER_SECONDS)
        if isinstance(answer, messages.Welcome):
            return answer
        if isinstance(answer, messages.Refused):
            if not answer.again:
                raise InputError(f"{self._address} refused this device: {answer.why}")
            raise _Left(f"{self._address} refused this device: {answer.why}")
        raise _Left(f"no answer from {self._address}")

    def _receive(self, socket: "zmq.Socket[bytes]", seconds: float) -> Message | None:
        if not socket.poll(max(int(seconds * 1000), 0)):
            return None
        with contextlib.suppress(msgspec.DecodeError, zmq.ZMQError):
            return self._decoder.decode(socket.recv(zmq.NOBLOCK))
        return None

    def _serve(
        self, socket: "zmq.Socket[bytes]", launcher: LocalLauncher, welcome: messages.Welcome
    ) -> None:
        """Do what the coordinator wants until it has been silent for too long."""
        heard = beat = time.monotonic()
        while True:
            message = self._receive(socket, 0.05)
            now = time.monotonic()
            if message is not None:
                heard = now
                self._obey(message, socket, launcher, welcome)
            elif now - heard > GONE_SECONDS:
                raise _Left(f"{self._address} has been silent for {GONE_SECONDS:g} s")
            with contextlib.suppress(Empty):
                self._send(socket, self._ended.get_nowait())
            if now - beat > BEAT_SECONDS:
                beat = now
                self._send(socket, messages.Beat(0.0))

    def _obey(
        self,
        message: Message,
        socket: "zmq.Socket[bytes]",
        launcher: LocalLauncher,
        welcome: messages.Welcome,
    ) -> None:
        name = self._device.name
        if isinstance(message, messages.StartWorker):
            launcher.end(name)
            keys = Keys.make()
            coordinator = Peer(f"tcp://{self._server}:{welcome.port}", welcome.key)
            bind = "tcp://0.0.0.0:*"
            settings = Settings(self._device, bind, coordinator, keys.public, keys.secret)
            self._send(socket, messages.Starting(keys.public))
            with contextlib.suppress(DeviceError):  # its end is reported like any other
                launcher.start(settings)
        elif isinstance(message, messages.EndWorker):
            launcher.end(name)
            launcher.prepare()
        elif isinstance(message, messages.Refused):
            raise _Left(f"{self._address}: {message.why}")

    def _send(self, socket: "zmq.Socket[bytes]", message: Message) -> None:
        with contextlib.suppress(zmq.ZMQError):
            socket.send(msgspec.msgpack.encode(message), zmq.NOBLOCK)
