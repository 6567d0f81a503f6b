"""Steps on a worker: a batch through its stages, and on to whoever is next."""

import contextlib
import time
from collections.abc import Iterator
from pathlib import Path

import torch
from torch import Tensor

from edgewise.errors import EdgewiseError
from edgewise.models.cache import Segment
from edgewise.models.shard import Shard
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
        stage, seconds = step.stage, list(step.seconds)
        while True:
            shard, is_last = self._holding.shards[stage], stage + 1 == len(route)
            with self._paced(len(states)) as spent:
                _prepare_cache(shard, step)
                if is_last:
                    tokens = _sample(shard, states, step.spans)
                else:
                    states = shard.forward(states, _segments(step.spans))
                finished_at(shard.device)
            seconds += spent
            if is_last:
                reply = messages.Tokens(step.epoch, step.number, tokens, tuple(seconds))
                self._transport.send(COORDINATOR, reply)
                return
            stage += 1
            if route[stage] != self._device.name:
                onward = messages.Step(
                    step.epoch, step.number, stage, step.spans, step.dropped, tuple(seconds)
                )
                self._transport.send(route[stage], onward, states)
                return

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


def _segments(spans: tuple[Span, ...]) -> list[Segment]:
    return [Segment(span.request, span.start, span.length) for span in spans]


def _sample(shard: Shard, states: Tensor, spans: tuple[Span, ...]) -> tuple[Sampled, ...]:
    """The last stage: a token behind each span that samples. What is wrong with one request is
    said of that request alone."""
    ends = torch.tensor([span.length for span in spans]).cumsum(0) - 1
    sampling = [(span, int(end)) for span, end in zip(spans, ends, strict=True) if span.sampling]
    logits = shard.forward(states, _segments(spans), rows=[end for _, end in sampling])
    tokens = []
    for row, (span, _) in zip(logits, sampling, strict=True):
        assert span.sampling is not None
        try:
            token = sample(row, span.sampling, span.start + span.length)
            tokens.append(Sampled(span.request, token))
        except EdgewiseError as error:
            tokens.append(Sampled(span.request, 0, str(error)))
    return tuple(tokens)


def _turns(file: str):  # type: ignore[no-untyped-def]
    """What makes emulated devices of this machine compute by turns; real ones need none."""
    if not file:
        return lambda until: contextlib.nullcontext()
    from edgewise.runtime.turns import Turns  # not on every system, and not needed there

    return Turns(Path(file)).one
