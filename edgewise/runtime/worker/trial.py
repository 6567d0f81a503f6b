"""Timing on a worker: layers with random weights, and round trips to others."""

import time

import torch
from torch import Tensor

from edgewise.errors import DeviceLost
from edgewise.models.cache import Segment
from edgewise.models.shape import ModelShape
from edgewise.models.shard import Shard, random_shard
from edgewise.runtime import messages
from edgewise.runtime.processors import finished_at
from edgewise.runtime.sampling import Sampling, sample
from edgewise.runtime.settings import Settings
from edgewise.runtime.transport import Envelope, Transport
from edgewise.runtime.trial_messages import Prepare, Prepared, Time, Timed
from edgewise.runtime.worker.extra_work import add_work
from edgewise.runtime.worker.inbox import Inbox
from edgewise.runtime.worker.pacing import Pacer

PROBE_SECONDS = 30.0
REST_SECONDS = 0.01  # that whoever is asked rests between two steps
OF_PROBES = messages.Echo | messages.Echoed | messages.Stop | messages.Ended
COLD_BYTES = 2**25  # more than the caches hold that a core has to itself


class Trial:
    """Layers that are only timed, at the device's speed."""

    def __init__(self, settings: Settings) -> None:
        self.device, self._pace = settings.device, Pacer(settings)
        self._shard: Shard | None = None

    def forget(self) -> None:
        self._shard = None

    def prepare(self, message: Prepare) -> Prepared:
        self.forget()
        shape = ModelShape.from_json(message.shape)
        self._shard = random_shard(
            shape.config,
            message.start,
            message.end,
            message.scheme,
            device=self.device.processor,
            slots=message.slots,
            context=message.context,
            spec=shape.spec,
        )
        add_work(self._shard, message.extra)
        return Prepared(self._shard.weight_bytes)

    def time(self, message: Time) -> Timed:
        """Run the prepared layers once, as a step of the pipeline would."""
        assert self._shard is not None
        return Timed(self._step_seconds(self._shard, message))

    def _step_seconds(self, shard: Shard, shape: Time) -> float:
        """Of one step through a shard, and of sampling where that ends in the head."""
        config, tokens, past = shard.config, shape.tokens, shape.past
        total, adapter = shape.sequences * tokens, max(shard.adapters.exits, default=0)
        segments = [Segment(number, past, tokens, adapter) for number in range(shape.sequences)]
        last = list(range(tokens - 1, total, tokens))
        if shard.start == 0:
            inputs = torch.randint(config.vocab_size, (total,))
        else:
            inputs = torch.randn(sum(shard.rows_in(segments, last)), config.hidden_size)
        finished_at(shard.device)
        with self._pace.paced(total) as taken:
            outputs = shard.forward(inputs, segments, last)
            if shard.end == config.num_layers:
                for row in outputs:
                    sample(row, Sampling(), past)
            finished_at(shard.device)
        return taken[0]


def round_trip_seconds(transport: Transport, inbox: Inbox, probe: messages.Probe) -> float | None:
    """Time one round trip to another device, between steps of both: `size` bytes there, an empty
    answer back; None where this worker was told to end meanwhile. Raises DeviceTimeout where none
    came, DeviceLost where the other one was removed, and as `Inbox.wait_for` does."""
    payload = torch.zeros(probe.size, dtype=torch.uint8)
    try:
        if not _echoed(transport, inbox, probe.target, messages.Echo(cold=True)):
            return None
        time.sleep(REST_SECONDS)
        cool_caches()
        began = time.monotonic()
        if not _echoed(transport, inbox, probe.target, messages.Echo(), payload):
            return None
        return time.monotonic() - began
    finally:
        inbox.waited()  # which no step did


def _echoed(
    transport: Transport,
    inbox: Inbox,
    target: str,
    echo: messages.Echo,
    payload: Tensor | None = None,
) -> bool:
    """Send it and wait for the answer; False where this worker was told to end. What else comes is
    kept, but for what others probe this worker with."""

    def concerns_it(envelope: Envelope) -> bool:
        return isinstance(envelope.message, OF_PROBES) or _is_without(envelope, target)

    transport.send(target, echo, payload)
    deadline = time.monotonic() + PROBE_SECONDS
    while True:
        envelope = inbox.wait_for(target, concerns_it, max(deadline - time.monotonic(), 0))
        if isinstance(envelope.message, messages.Stop | messages.Ended):
            return False
        if _is_without(envelope, target):
            inbox.kept.appendleft(envelope)
            raise DeviceLost(target, "was removed before it answered")
        if isinstance(envelope.message, messages.Echoed) and envelope.sender == target:
            return True
        if isinstance(envelope.message, messages.Echo):
            answer_echo(transport, envelope.sender, envelope.message)


def _is_without(envelope: Envelope, device: str) -> bool:
    """Whether it tells of all others that there are, and a device is not among them."""
    message = envelope.message
    return isinstance(message, messages.Peers) and device not in message.peers


def answer_echo(transport: Transport, sender: str, echo: messages.Echo) -> None:
    if echo.cold:
        cool_caches()
    transport.send(sender, messages.Echoed())


def cool_caches() -> None:
    """Leave caches as a step's weights do: a message finds nothing of its code in them then, and
    takes twice as long."""
    torch.zeros(COLD_BYTES, dtype=torch.uint8)
