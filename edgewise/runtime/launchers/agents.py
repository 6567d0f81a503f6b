"""Where agents come in: the coordinator's side of `edgewise join`."""

import contextlib
import hmac
import threading
import time
from collections import Counter
from collections.abc import Callable, Mapping
from concurrent.futures import Future
from dataclasses import dataclass, field
from queue import Empty, SimpleQueue
from types import MappingProxyType
from urllib.parse import urlsplit

import msgspec
import zmq

from edgewise.clusters import Device
from edgewise.errors import DeviceTimeout
from edgewise.runtime import messages
from edgewise.runtime.launchers.invitation import Invitation
from edgewise.runtime.messages import Message, WorkerProgram
from edgewise.runtime.settings import Settings
from edgewise.runtime.transport.zeromq import Keys

BEAT_SECONDS, SILENT_SECONDS = 1.0, 3.0
AGAIN_SECONDS = 5.0  # before a device whose worker was lost is offered again
CLOSE_SECONDS = 0.5  # for what was said last to leave
MOST_BYTES, MOST_AGENTS = 2**16, 1000

FROM_AGENTS = messages.JoinRequest | messages.Starting | messages.Beat | messages.Ended


@dataclass(slots=True)
class _Agent:
    """`offer`: when its device is to be offered (again), None while it is taken."""

    device: Device
    host: str
    route: bytes
    heard: float
    offer: float | None
    key: Future[str] = field(default_factory=Future)


class AgentLauncher:
    """Lets agents in that know the secret, and is the launcher of their devices' workers. A thread
    of its own answers them, whatever the coordinator does; `post` tells it of devices that joined
    and of workers that ended, which run a `program`. None may be called as its own, the `source`.
    `refused` counts what was not let in, by reason."""

    def __init__(
        self,
        address: str,
        keys: Keys,
        invitation: Invitation,
        inbox: messages.Peer,
        post: Callable[[Message], None],
        source: str,
        program: WorkerProgram = WorkerProgram.SERVE,
    ) -> None:
        self._invitation, self._post, self._source = invitation, post, source
        port = urlsplit(inbox.address).port
        assert port is not None
        self._welcome = messages.Welcome(port, inbox.key, program)
        self._agents: dict[str, _Agent] = {}
        self.refused: Counter[str] = Counter()
        self._context = zmq.Context()
        self._socket = self._context.socket(zmq.ROUTER)
        for option, value in ((zmq.LINGER, 0), (zmq.MAXMSGSIZE, MOST_BYTES)):
            self._socket.setsockopt(option, value)
        self._socket.curve_server = True
        self._socket.curve_secretkey = keys.secret.encode()
        self._socket.curve_publickey = keys.public.encode()
        self._socket.bind(address)
        self.address = self._socket.getsockopt_string(zmq.LAST_ENDPOINT)
        self._orders: SimpleQueue[tuple[str, Message]] = SimpleQueue()
        self._decoder = msgspec.msgpack.Decoder(FROM_AGENTS)
        self._closed = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    # The launcher's side, called by the coordinator.

    process_ids: Mapping[str, int] = MappingProxyType({})  # they are other machines' processes

    def start(self, settings: Settings) -> Future[str]:
        """Have the agent start its worker, with keys that are made there."""
        name = settings.device.name
        agent = self._agents.get(name)
        if agent is None:
            raise DeviceTimeout(name, "is not joined any more")
        agent.offer, agent.key = None, Future()  # a key that comes now is of no start before
        self._orders.put((name, messages.StartWorker()))
        return agent.key

    def prepare(self) -> None:
        """Nothing: agents see to it themselves."""

    def end(self, device: str) -> None:
        """The worker at once. The device is offered again after a while if its agent is there."""
        self._orders.put((device, messages.EndWorker()))
        if (agent := self._agents.get(device)) is not None:
            agent.offer = time.monotonic() + AGAIN_SECONDS

    def close(self) -> None:
        self._closed.set()
        self._thread.join()
        self._context.destroy(linger=round(CLOSE_SECONDS * 1000))

    # The thread's side.

    def _run(self) -> None:
        beat = 0.0
        while not self._closed.is_set():
            with contextlib.suppress(Empty):
                while True:
                    self._send(*self._orders.get_nowait())
            if self._socket.poll(50):
                self._take()
            if (now := time.monotonic()) - beat > BEAT_SECONDS:
                beat = now
                self._check(now)
        for name in self._agents:
            self._send(name, messages.EndWorker())

    def _check(self, now: float) -> None:
        for name, agent in list(self._agents.items()):
            if now - agent.heard > SILENT_SECONDS:
                del self._agents[name]
                self._post(messages.Ended(name, f"was silent for {SILENT_SECONDS:g} s"))
                continue
            self._send(name, messages.Beat(0.0))
            if agent.offer is not None and now >= agent.offer:
                agent.offer = None
                self._post(messages.Joined(agent.device, agent.host))

    def _send(self, device: str, message: Message) -> None:
        if (agent := self._agents.get(device)) is not None:
            self._answer(agent.route, message)

    def _answer(self, route: bytes, message: Message) -> None:
        with contextlib.suppress(zmq.ZMQError):  # it is gone, which its silence will show
            self._socket.send_multipart([route, msgspec.msgpack.encode(message)], zmq.NOBLOCK)

    def _take(self) -> None:
        frames = self._socket.recv_multipart(copy=False)
        route = frames[0].bytes
        try:
            (content,) = frames[1:]
            message = self._decoder.decode(content.bytes)
        except Exception:  # whatever strangers send
            self.refused["malformed"] += 1
            return
        if isinstance(message, messages.JoinRequest):
            seen = str(frames[1].get("Peer-Address"))
            self._let_in(route, message, message.host or seen)
            return
        name = next((x for x, agent in self._agents.items() if agent.route == route), None)
        if name is None:
            self.refused["not joined"] += 1
            self._answer(route, messages.Refused("not joined, or silent for too long", True))
            return
        self._agents[name].heard = time.monotonic()
        if isinstance(message, messages.Starting):
            if not (key := self._agents[name].key).done():
                key.set_result(message.key)
        elif isinstance(message, messages.Ended):
            self._post(msgspec.structs.replace(message, name=name))

    def _let_in(self, route: bytes, join: messages.JoinRequest, host: str) -> None:
        if not hmac.compare_digest(join.secret, self._invitation.secret):
            self.refused["wrong token"] += 1
            self._answer(route, messages.Refused("wrong token", False))
            return
        name, known = join.device.name, self._agents.get(join.device.name)
        if name == self._source or (known is not None and known.route != route):
            self.refused["name taken"] += 1
            why = f"there is a device called '{name}' already; give this one another --name"
            self._answer(route, messages.Refused(why, True))
            return
        if len(self._agents) >= MOST_AGENTS:
            self.refused["full"] += 1
            self._answer(route, messages.Refused(f"{MOST_AGENTS} devices are in already", True))
            return
        self._answer(route, self._welcome)
        if known is None:
            now = time.monotonic()
            self._agents[name] = _Agent(join.device, host, route, now, offer=None)
            self._post(messages.Joined(join.device, host))
