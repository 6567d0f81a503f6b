"""A worker: the process that runs one device's stages.

Started as `python -m edgewise.runtime.worker`; then it waits for its settings, one line on standard
input. It lives as long as that pipe is open: when whoever started it dies, however that is, the
worker ends.
"""

import contextlib
import errno
import os
import sys
import threading
import traceback
from collections.abc import Callable
from typing import Any
from urllib.parse import urlsplit

import torch
from torch import Tensor

from edgewise.errors import (
    DeviceError,
    DeviceLost,
    DeviceMemoryError,
    DiskError,
    EdgewiseError,
)
from edgewise.models.direct_reads import disk_rate
from edgewise.models.layer_files import layer_folder
from edgewise.runtime import messages
from edgewise.runtime.adapter_messages import ForgetAdapter, HoldAdapter, HoldExit, Residual
from edgewise.runtime.machine import code_name, free_bytes, machine_name, process_bytes
from edgewise.runtime.messages import COORDINATOR, Message
from edgewise.runtime.settings import Settings
from edgewise.runtime.transport import Envelope, Transport
from edgewise.runtime.transport.emulation import Emulated
from edgewise.runtime.transport.zeromq import Keys, ZeroMQ
from edgewise.runtime.trial_messages import Prepare, Time
from edgewise.runtime.worker.heart import Heart
from edgewise.runtime.worker.holding import Holding
from edgewise.runtime.worker.inbox import GivenUp, Inbox
from edgewise.runtime.worker.private import PrivateSplit
from edgewise.runtime.worker.stages import Stages
from edgewise.runtime.worker.trial import Trial, answer_echo, round_trip_seconds

IDLE_SECONDS = 60.0

Handler = Callable[[str, Any, Tensor | None], None]


class Worker:
    """Handles one message after the other; `run` is the whole life of the process."""

    def __init__(self, settings: Settings, transport: Transport) -> None:
        self.name, self.transport = settings.device.name, transport
        self.coordinator_host = urlsplit(settings.coordinator.address).hostname or ""
        self.inbox = Inbox(settings.device, transport, self._handle)
        self.private = PrivateSplit(settings.device, transport, self.inbox)
        self.holding = Holding(settings.device, self._report, self.private)
        self.stages = Stages(settings, self.holding, transport, self.inbox)
        self.trial = Trial(settings)
        self.ended = False
        self.handlers: dict[type[Message], Handler] = {
            messages.Peers: self._introduce,
            messages.Load: self._load,
            messages.Piece: lambda _, message, tensor: self.holding.fetching.receive(
                message, tensor
            ),
            HoldAdapter: lambda _, message, tensor: self.holding.adapt(message, tensor),
            HoldExit: lambda _, message, tensor: self.holding.hold_exit(message, tensor),
            ForgetAdapter: lambda _, message, __: self.holding.forget(message.adapter),
            messages.Step: lambda _, message, tensor: self.stages.step(message, tensor),
            Residual: self.private.answer,
            messages.Describe: self._describe,
            Prepare: lambda _, message, __: self._report(self.trial.prepare(message)),
            Time: lambda _, message, __: self._report(self.trial.time(message)),
            messages.Probe: self._probe,
            messages.Echo: lambda sender, echo, _: answer_echo(transport, sender, echo),
            messages.Ping: lambda sender, _, __: transport.send(sender, messages.Pong()),
            messages.Stop: lambda *_: self._end(),
            messages.Ended: lambda *_: self._end(),
        }

    def run(self) -> None:
        """Serve until told to stop, or until the one who started it is gone."""
        self._report(messages.Ready(self.transport.peer))
        heart = Heart(self.transport, COORDINATOR)
        while not self.ended:
            envelope = self.inbox.next(IDLE_SECONDS)
            if envelope is not None:
                with heart.busy():
                    self._handle(envelope)
        heart.close()

    def _handle(self, envelope: Envelope) -> None:
        message = envelope.message
        try:
            handler = self.handlers.get(type(message))
            if handler is not None:  # answers to a probe that has timed out, for instance
                handler(envelope.sender, message, envelope.tensor)
        except GivenUp:
            return  # who lets go of a step knows it
        except Exception as error:  # the process boundary: the coordinator decides what to do
            epoch = getattr(message, "epoch", self.holding.epoch)
            step = message.number if isinstance(message, messages.Step) else None
            self._report(_failure(error, self.name, epoch, step))

    def _report(self, message: Message) -> None:
        self.transport.send(COORDINATOR, message)

    def _end(self) -> None:
        self.ended = True

    def _introduce(self, _: str, message: messages.Peers, __: Tensor | None) -> None:
        here = self.coordinator_host  # what the coordinator's machine says of itself
        self.transport.introduce({name: peer.at(here) for name, peer in message.peers.items()})
        self._report(messages.Introduced())

    def _load(self, _: str, message: messages.Load, __: Tensor | None) -> None:
        self.trial.forget()
        self.holding.load(message)

    def _describe(self, *_: object) -> None:
        """Say what this machine is, what memory it has free, what this process takes, and how fast
        its disk is read."""
        disk = disk_rate(layer_folder()) if self.holding.device.disk_bytes_per_second else 0.0
        sizes = free_bytes(), process_bytes()
        self._report(messages.Described(machine_name(), *sizes, code_name(), disk))

    def _probe(self, _: str, message: messages.Probe, __: Tensor | None) -> None:
        seconds = round_trip_seconds(self.transport, self.inbox, message)
        if seconds is None:
            self._end()
        else:
            self._report(messages.Probed(seconds))


def _failure(error: Exception, name: str, epoch: int, step: int | None) -> messages.Failed:
    """An exception as a message: our own errors by class and text, others with their trace."""
    error = _of_device(error, name)
    device = error.device if isinstance(error, DeviceError) else name
    if isinstance(error, EdgewiseError):
        return messages.Failed(epoch, type(error).__name__, str(error), device, step)
    return messages.Failed(epoch, "", f"{error!r}\n{traceback.format_exc()}", device, step)


def _of_device(error: Exception, name: str) -> Exception:
    """What befell this device as a whole as an error of ours, by which others go on. A device that
    cannot read or keep its layers is lost, as one that is gone: others may have theirs in memory,
    and where it is started again it fetches, or makes, its files anew. So is one whose processor
    failed: CUDA then refuses all that this process asks of it."""
    text = str(error)
    first = text.partition("\n")[0]
    if isinstance(error, DiskError):
        return DeviceLost(name, f"cannot use its disk: {error}")
    full = isinstance(error, torch.OutOfMemoryError | MemoryError) or (
        isinstance(error, OSError) and error.errno == errno.ENOMEM  # a mapping that is refused
    )
    if full or (isinstance(error, RuntimeError) and "DefaultCPUAllocator" in text):
        return DeviceMemoryError(name, f"ran out of memory: {first}")
    broken = text.startswith("CUDA error") or "device-side assert" in text
    if isinstance(error, torch.AcceleratorError) or (isinstance(error, RuntimeError) and broken):
        return DeviceLost(name, f"has a processor that failed: {first}")
    return error


def _watch_standard_input(transport: Transport) -> None:
    """Say to this worker that the one who started it is gone, when it is."""

    def wait() -> None:
        with contextlib.suppress(OSError, ValueError):
            sys.stdin.buffer.read()
        transport.post(messages.Ended(COORDINATOR, "closed its pipe"))

    threading.Thread(target=wait, daemon=True).start()


def run_worker(kind: type[Worker] = Worker) -> None:
    # What a library prints goes to standard error, which the launcher keeps.
    os.dup2(2, 1)
    line = sys.stdin.buffer.readline()
    if not line:  # it was a spare, and is not needed
        return
    settings = Settings.from_line(line)
    torch.set_num_threads(settings.device.threads)
    torch.set_grad_enabled(False)
    keys = Keys(settings.public, settings.secret) if settings.public else None
    transport: Transport = ZeroMQ(settings.device.name, settings.bind, keys)
    if settings.links:
        rate = settings.device.interface_bytes_per_second
        transport = Emulated(transport, settings.links, rate)
    transport.introduce({COORDINATOR: settings.coordinator})
    _watch_standard_input(transport)
    kind(settings, transport).run()
    transport.close()
