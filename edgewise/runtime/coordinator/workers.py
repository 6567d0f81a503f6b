"""The coordinator's side of its workers: who is there, what they say, who is gone."""

import contextlib
import logging
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future
from types import TracebackType
from typing import TypeVar

from torch import Tensor

from edgewise.clusters import Cluster
from edgewise.errors import DeviceError, DeviceLost, DeviceTimeout
from edgewise.runtime import messages
from edgewise.runtime.coordinator.failures import error_of
from edgewise.runtime.coordinator.signs import SILENT_SECONDS, Ear, Signs
from edgewise.runtime.launchers import Launcher
from edgewise.runtime.logs import fields
from edgewise.runtime.messages import COORDINATOR, EVERYWHERE, Message, Peer
from edgewise.runtime.settings import Settings
from edgewise.runtime.transport import Envelope, Transport

START_SECONDS = 120.0
LOOK_SECONDS = 0.5  # how often silence is looked for
PING_SECONDS = 5.0
STEPS = (messages.Tokens, messages.Failed)

Reply = TypeVar("Reply", bound=Message)

log = logging.getLogger(__name__)


class Workers:
    """A worker per device of `cluster`, which shrinks and grows with them. Every method that waits
    raises DeviceLost when one of them is gone, and what a worker raised."""

    def __init__(self, cluster: Cluster, transport: Transport) -> None:
        self.cluster, self.roles = cluster, dict[str, str]()
        self.epoch = -1  # number of the plan loaded last, by which leftovers of others are told
        self._transport = transport
        self.launchers: dict[str, Launcher] = {}
        self.settings: dict[str, Settings] = {}
        self._peers: dict[str, Peer] = {}
        self._hosts: dict[str, str] = {}
        self.arrivals = deque[messages.Joined]()
        self._starting = set[str]()
        self._keys: dict[str, Future[str]] = {}  # of those whose keys are not known yet
        self._steps = deque[Envelope]()  # came while something else was waited for
        self._take: Callable[[Envelope], None] | None = None  # what else comes then
        self.signs = Signs()
        self._ear = Ear(transport, self.signs, self.settings, LOOK_SECONDS)
        self._on_close: list[Callable[[], None]] = []

    # Membership

    def start(self, launcher: Launcher, settings: Sequence[Settings]) -> None:
        """Start workers that are not there yet, all at the same time, and make everybody known to
        everybody."""
        for each in settings:
            name = each.device.name
            self.launchers[name], self.settings[name] = launcher, each
            self._starting.add(name)
            self._keys[name] = launcher.start(each)
            if name in self._learn_keys():
                self._keys[name].add_done_callback(lambda key: self.wake())
        self._introduce()

    def admit(self, joined: messages.Joined, launcher: Launcher) -> None:
        """Take a device in that has joined, and start its worker."""
        device = joined.device
        self.cluster, self._hosts[device.name] = self.cluster.joined_by(device), joined.host
        self.start(launcher, [Settings(device, f"tcp://{EVERYWHERE}:*", self._transport.peer)])
        log.info(fields("joined", device=device.name, host=joined.host))

    def restart(self, device: str) -> None:
        """Start the worker of a device anew."""
        self._let_newcomers_go({device})
        self.launchers[device].end(device)
        self.signs.forget(device)
        self.start(self.launchers[device], [self.settings[device]])

    def prepare(self) -> None:
        """Have the source's worker, without which nothing runs, start quickly if it is lost."""
        self.launchers[self.cluster.source].prepare()

    def remove(self, device: str) -> None:
        """Go on without a device. Nothing for one that is gone already."""
        if device not in self.settings:
            return
        self._let_newcomers_go({device})
        self._forget(device)
        self._introduce()

    def _let_newcomers_go(self, but: set[str]) -> None:
        """Nobody waits for a machine that is only just starting its worker where another device was
        lost: its launcher offers it again."""
        for name in (self._starting & self._hosts.keys()) - but:
            self._forget(name)

    def _forget(self, device: str) -> None:
        self._starting.discard(device)
        self.launchers.pop(device).end(device)
        self.signs.forget(device)
        for each in (self.settings, self._keys, self._peers, self._hosts, self.roles):
            each.pop(device, None)
        self.cluster = self.cluster.without(device)

    def _introduce(self) -> None:
        """Make everybody known to everybody, those of this machine too that were starting when one
        was lost."""
        self._transport.introduce(self._peers)  # at first: who was removed is nobody to wait with
        self._wait(self._learn_keys, lambda envelope: False, "started", START_SECONDS)
        self.collect(messages.Ready, list(self._starting), START_SECONDS)
        self._transport.introduce(self._peers)
        me = {COORDINATOR: self._transport.peer}
        for name in self.settings:
            self.send(name, messages.Peers(self._peers | me))
        self.collect(messages.Introduced, list(self.settings), START_SECONDS)

    def _learn_keys(self) -> list[str]:
        """Let those talk here whose keys are known by now; returns the others."""
        for name, key in list(self._keys.items()):
            if key.done():
                del self._keys[name]
                self._peers[name] = Peer(self.settings[name].bind, key.result())
                self._transport.introduce(self._peers)
        return list(self._keys)

    @property
    def names(self) -> tuple[str, ...]:
        return tuple(device.name for device in self.cluster.devices)

    def is_remote(self, name: str) -> bool:
        """Whether a device is on another machine, which has no copy of the model."""
        return name in self._hosts

    @property
    def process_ids(self) -> dict[str, int]:
        """The operating system's number of each worker of this machine, by device."""
        return {k: v for x in self.launchers.values() for k, v in x.process_ids.items()}

    # Talking

    def send(self, device: str, message: Message, tensor: Tensor | None = None) -> None:
        self.signs.stir()
        self._transport.send(device, message, tensor)

    def wake(self) -> None:
        """Let `receive` return now. For other threads."""
        self._transport.post(messages.Wake())

    def receive(self, timeout_seconds: float) -> Envelope | None:
        """The next message that is no sign of life, or None when none came in time."""
        deadline = time.monotonic() + timeout_seconds
        self.signs.begin_to_listen()
        if self._steps:
            return self._steps.popleft()
        while True:
            if name := self._ear.silent():
                raise DeviceLost(name, f"was silent for {SILENT_SECONDS:g} s" + self._role(name))
            left = max(deadline - time.monotonic(), 0)
            envelope = self._ear.next(min(left, LOOK_SECONDS))
            if envelope is None:
                if left <= LOOK_SECONDS:
                    return None
            elif not self._is_sign_of_life(envelope):
                return envelope

    def _is_sign_of_life(self, envelope: Envelope) -> bool:
        """Whether nobody else has to see it. Raises what a message reports."""
        sender, message = envelope.sender, envelope.message
        if isinstance(message, messages.Joined):
            self.arrivals.append(message)
        if isinstance(message, messages.Joined | messages.Wake):
            return False  # whoever waits with nothing to do shall see it
        if isinstance(message, messages.Ended):
            if message.name in self.settings:
                raise self._lost(message)
            return True
        if sender not in self.settings:  # it was removed while this was under way
            return True
        if isinstance(message, messages.Beat):
            return True
        if isinstance(message, messages.Ready) and sender in self._starting:
            self._starting.discard(sender)
            self._peers[sender] = message.peer.at(self._hosts.get(sender, ""))
        if isinstance(message, messages.Failed):
            error = error_of(message)
            gone = isinstance(error, DeviceLost | DeviceTimeout)
            if message.epoch < self.epoch or (gone and message.device not in self.settings):
                return True  # that is past
            if gone or message.step is None:
                raise error
        return False

    def _lost(self, ended: messages.Ended) -> DeviceLost:
        last = f": {ended.last_line}" if ended.last_line else ""
        return DeviceLost(ended.name, ended.how + self._role(ended.name) + last)

    def _role(self, name: str) -> str:
        return f" {self.roles[name]}" if name in self.roles else ""

    def collect(
        self, kind: type[Reply], devices: Sequence[str], timeout_seconds: float, least: int = 0
    ) -> dict[str, Reply]:
        """Wait until every device, or `least` of them, has sent a message of that kind. Raises
        DeviceTimeout."""
        replies: dict[str, Reply] = {}

        def take(envelope: Envelope) -> bool:
            if isinstance(envelope.message, kind):
                replies[envelope.sender] = envelope.message
            return isinstance(envelope.message, kind)

        def missing() -> list[str]:
            enough = least and len(replies) >= least
            return [] if enough else [name for name in devices if name not in replies]

        self._wait(missing, take, kind.__name__.lower(), timeout_seconds)
        return replies

    def _wait(
        self,
        missing: Callable[[], list[str]],
        take: Callable[[Envelope], bool],
        what: str,
        timeout_seconds: float,
    ) -> None:
        """Until no device is missing. What is not taken goes on as steps, or is kept."""
        others = list[Envelope]()
        deadline = time.monotonic() + timeout_seconds
        try:
            while names := missing():
                envelope = self.receive(max(deadline - time.monotonic(), 0))
                if envelope is None:
                    raise DeviceTimeout(names[0], f"was not {what} within {timeout_seconds:g} s")
                if take(envelope):
                    continue
                if self._take is not None:
                    self._take(envelope)
                elif isinstance(envelope.message, STEPS):
                    others.append(envelope)
        finally:
            self._steps.extend(others)

    def call(
        self, device: str, message: Message, reply: type[Reply], timeout_seconds: float
    ) -> Reply:
        """Send one message and wait for its answer."""
        self.send(device, message)
        return self.collect(reply, [device], timeout_seconds)[device]

    @contextlib.contextmanager
    def meanwhile(self, take: Callable[[Envelope], None]) -> Iterator[None]:
        """While answers are waited for in this block, have all else that comes taken at once, not
        kept for later. What takes it may send, and not wait."""
        self._take = take
        try:
            yield
        finally:
            self._take = None

    def round_trip(self, device: str) -> float:
        """Seconds from here into a device's worker and back."""
        began = time.monotonic()
        self.call(device, messages.Ping(), messages.Pong, PING_SECONDS)
        return time.monotonic() - began

    # End

    def at_end(self, close: Callable[[], None]) -> None:
        """Have something closed with this, last given first."""
        self._on_close.append(close)

    def close(self) -> None:
        """End every worker and remove every trace. May be called twice."""
        for name in list(self.signs.names):
            with contextlib.suppress(DeviceError):
                self.send(name, messages.Stop())
            self.signs.forget(name)
        try:
            for launcher in {id(x): x for x in self.launchers.values()}.values():
                launcher.close()
        finally:
            while self._on_close:
                self._on_close.pop()()

    def __enter__(self) -> "Workers":
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()
