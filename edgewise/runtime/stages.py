"""Steps on a worker: a batch through its stages, and on to whoever is next."""

import contextlib
import time
from collections.abc import Iterator
from itertools import accumulate
from pathlib import Path

import torch
from msgspec.structs import replace
from torch import Tensor

from edgewise.errors import NonFinite
from edgewise.models.cache import Segment
from edgewise.models.shard import Shard
from edgewise.models.wire import from_wire, to_wire
from edgewise.runtime import messages
from edgewise.runtime.holding import Holding
from edgewise.runtime.messages import Sampled, Span
from edgewise.runtime.processors import finished_at
from edgewise.runtime.sampling import sample
from edgewise.runtime.settings import Settings
from edgewise.runtime.transport import Transport
from edgewise.runtime.waiting import wait_until

COORDINATOR = ""


class Stages:
    """Runs steps at this device's speed."""

    def __init__(self, settings: Settings, holding: Holding, transport: Transport) -> None:
        self._device, self._holding, self._transport = settings.device, holding, transport
        self._turns = _turns(settings.turns)
        self._spent: dict[int, float] = {}  # seconds of the last step of so many tokens

    def step(self, step: messages.Step, states: Tensor | None) -> None:
        """Run one stage, and on to the next: here, on the next device, or back as tokens."""
        route = self._holding.route
        if step.epoch != self._holding.epoch or states is None:
            return  # left over from a plan that is no longer loaded
        if step.stage:
            hidden_size = self._holding.shards[step.stage].config.hidden_size
            states = from_wire(states, self._holding.wire, hidden_size)
        while True:
            shard, is_last = self._holding.shards[step.stage], step.stage + 1 == len(route)
            with self._paced(len(states)) as taken:
                _prepare_cache(shard, step)
                states, step = self._forward(shard, states, step, is_last)
                tokens = _sample(states, step.spans) if is_last else ()
                finished_at(shard.device)
            seconds = (*step.seconds, *taken)
            if is_last:
                reply = messages.Tokens(step.epoch, step.number, tokens + step.failed, seconds)
                self._transport.send(COORDINATOR, reply)
                return
            step = replace(step, stage=step.stage + 1, seconds=seconds)
            if route[step.stage] != self._device.name:
                sent = to_wire(states, self._holding.wire)
                self._transport.send(route[step.stage], step, sent)
                return

    def _forward(
        self, shard: Shard, states: Tensor, step: messages.Step, is_last: bool
    ) -> tuple[Tensor, messages.Step]:
        """What a shard makes of a step: hidden states, or logits behind each span that samples.
        Requests whose numbers are none leave the step, and the others go on."""
        spans = step.spans
        while spans:
            segments = [Segment(span.request, span.start, span.length) for span in spans]
            ends = list(accumulate(span.length for span in spans))
            rows = [end - 1 for span, end in zip(spans, ends, strict=True) if span.sampling]
            try:
                outputs = shard.forward(states, segments, rows if is_last else None)
                return outputs, replace(step, spans=spans)
            except NonFinite as error:
                if not error.sequences:
                    raise
                bad = set(error.sequences)
                why = f"device '{self._device.name}' failed: {error}"
                failed = tuple(Sampled(number, 0, why) for number in error.sequences)
                step = replace(step, failed=step.failed + failed)
                parts = states.split([span.length for span in spans])
                good = [
                    (span, part)
                    for span, part in zip(spans, parts, strict=True)
                    if span.request not in bad
                ]
                spans = tuple(span for span, _ in good)
                states = torch.cat([part for _, part in good]) if good else states[:0]
        return states, replace(step, spans=())

    @contextlib.contextmanager
    def _paced(self, tokens: int) -> Iterator[list[float]]:
        """Let what is done take as long as it takes this device: `slowdown` times as long. What it
        took is in the list that this gives, afterwards."""
        began, slowdown = time.monotonic(), self._device.slowdown
        taken: list[float] = []
        with self._turns(began + (slowdown - 1) * self._spent.get(tokens, 0.0)):
            started = time.monotonic()
            yield taken
            spent = self._spent[tokens] = time.monotonic() - started
        wait_until(began + spent * slowdown)
        taken.append(time.monotonic() - began)


def _prepare_cache(shard: Shard, step: messages.Step) -> None:
    """Give back what is no longer needed, and copy what requests share."""
    for request in step.dropped:
        shard.drop(request)
    for span in step.spans:
        if span.prefix is not None:
            source, length = span.prefix
            shard.copy_prefix(source, span.request, length)


def _sample(logits: Tensor, spans: tuple[Span, ...]) -> tuple[Sampled, ...]:
    """A token behind each span that samples."""
    sampling = [span for span in spans if span.sampling]
    tokens = []
    for row, span in zip(logits, sampling, strict=False):  # no spans, no logits
        assert span.sampling is not None
        token = sample(row, span.sampling, span.start + span.length)
        tokens.append(Sampled(span.request, token))
    return tuple(tokens)


def _turns(file: str):  # type: ignore[no-untyped-def]
    """What makes emulated devices of this machine compute by turns; real ones need none."""
    if not file:
        return lambda until: contextlib.nullcontext()
    from edgewise.runtime.turns import Turns  # not on every system, and not needed there

    return Turns(Path(file)).one
