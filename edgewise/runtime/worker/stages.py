"""Steps on a worker: a batch through its stages, and on to whoever is next."""

import time
from collections.abc import Sequence
from itertools import accumulate, compress

import torch
from msgspec.structs import replace
from torch import Tensor

from edgewise.errors import NonFinite
from edgewise.models.cache import Segment
from edgewise.models.shard import Shard
from edgewise.models.wire import from_wire, to_wire
from edgewise.runtime import messages
from edgewise.runtime.processors import finished_at
from edgewise.runtime.scores import PromptScores
from edgewise.runtime.settings import Settings
from edgewise.runtime.spans import Sampled, Span
from edgewise.runtime.transport import Transport
from edgewise.runtime.waiting import computing_clock
from edgewise.runtime.worker.holding import Holding
from edgewise.runtime.worker.inbox import Inbox
from edgewise.runtime.worker.last_stage import Sampler, score_prompt
from edgewise.runtime.worker.pacing import Pacer

COORDINATOR = ""


class Stages:
    """Runs steps at this device's speed."""

    def __init__(
        self, settings: Settings, holding: Holding, transport: Transport, inbox: Inbox
    ) -> None:
        self._device, self._holding, self._transport = settings.device, holding, transport
        self._sampler = Sampler()
        self._inbox, self._pace = inbox, Pacer(settings, self._waited)

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
            with self._pace.paced(len(states)) as taken:
                _prepare_cache(shard, step)
                if is_last:
                    back = self._finish(shard, states, step)
                else:
                    states, step = self._forward(shard, states, step)
                finished_at(shard.device)
            seconds, asked = (*step.seconds, *taken), (*step.asked, *self._asked())
            if is_last:
                self._transport.send(COORDINATOR, replace(back, seconds=seconds, asked=asked))
                return
            step = replace(step, stage=step.stage + 1, seconds=seconds, asked=asked)
            if route[step.stage] != self._device.name:
                sent = to_wire(states, self._holding.wire)
                self._transport.send(route[step.stage], step, sent)
                return

    def _waited(self) -> tuple[float, float]:
        """For the pacer: a disk is as fast as it is whatever the device computes like."""
        seconds, by_clock = self._inbox.waited()
        counts = computing_clock(self._device) is time.monotonic
        return seconds, by_clock + self._holding.disk_waited() * counts

    def _asked(self) -> list[tuple[str, int, int]]:
        """What this stage has asked the source for."""
        crossed = self._holding.private.crossed()
        return [(self._device.name, *crossed)] if any(crossed) else []

    def _finish(self, shard: Shard, states: Tensor, step: messages.Step) -> messages.Tokens:
        """The last stage: a token behind each span that samples, and scores of prompts."""
        self._sampler.prepare(step)
        prompts, rows = list[PromptScores](), list[tuple[Span, Tensor]]()
        for span, part in _parts(shard, states, step):
            if not _scored(span):
                continue
            try:
                logits, scores = score_prompt(shard, part, span)
            except NonFinite as error:
                step = self._failed(step, error)
                continue
            prompts.append(scores)
            rows += [] if logits is None else [(span, logits)]
        states, step = _only(shard, states, step, [not _scored(span) for span in step.spans])
        states, step = self._forward(shard, states, step)
        sampling = [span for span in step.spans if span.sampling]
        rows += zip(sampling, states, strict=False)  # no spans, no logits
        tokens = tuple(self._sampler.sample(logits, span) for span, logits in rows)
        return messages.Tokens(step.epoch, step.number, tokens + step.failed, (), tuple(prompts))

    def _forward(
        self, shard: Shard, states: Tensor, step: messages.Step
    ) -> tuple[Tensor, messages.Step]:
        """What a shard makes of a step: hidden states, or logits behind each span that samples.
        Requests whose numbers are none leave the step, and the others go on."""
        while spans := step.spans:
            try:
                return shard.forward(states, *_asked_for(spans)), step
            except NonFinite as error:
                if not error.sequences:
                    raise
                step = self._failed(step, error)
                keep = [span.request not in error.sequences for span in spans]
                states, step = _only(shard, states, step, keep)
        return states, step

    def _failed(self, step: messages.Step, error: NonFinite) -> messages.Step:
        """The step with word of the requests that cannot be computed."""
        why = f"device '{self._device.name}' failed: {error}"
        failed = tuple(Sampled(number, 0, why) for number in error.sequences)
        return replace(step, failed=step.failed + failed)


def _prepare_cache(shard: Shard, step: messages.Step) -> None:
    """Give back what is no longer needed, and copy what requests share."""
    for request in step.dropped:
        shard.drop(request)
    for span in step.spans:
        if span.prefix is not None:
            source, length = span.prefix
            shard.copy_prefix(source, span.request, length)


def _scored(span: Span) -> bool:
    return span.wish is not None and bool(span.wish.targets)


def _asked_for(spans: Sequence[Span]) -> tuple[list[Segment], list[int]]:
    """Spans as a shard takes them, and those of their tokens behind which one is sampled."""
    ends = accumulate(span.length for span in spans)
    rows = [end - 1 for span, end in zip(spans, ends, strict=True) if span.sampling]
    return [span.segment for span in spans], rows


def _parts(shard: Shard, states: Tensor, step: messages.Step) -> list[tuple[Span, Tensor]]:
    """Spans, and the rows of each as they come to a shard."""
    rows = shard.rows_in(*_asked_for(step.spans))
    return list(zip(step.spans, states.split(rows), strict=True))


def _only(
    shard: Shard, states: Tensor, step: messages.Step, keep: Sequence[bool]
) -> tuple[Tensor, messages.Step]:
    """The spans to keep, and their rows."""
    if all(keep):
        return states, step
    parts = list(compress(_parts(shard, states, step), keep))
    states = torch.cat([part for _, part in parts]) if parts else states[:0]
    return states, replace(step, spans=tuple(span for span, _ in parts))
