"""A batch as it enters the first stage of a pipeline, and as it comes back, or fails, there."""

from collections.abc import Iterable, Mapping
from itertools import chain

import torch
from torch import Tensor

from edgewise.runtime import messages
from edgewise.runtime.batches import Batch
from edgewise.runtime.coordinator.failures import error_of
from edgewise.runtime.events import Entered
from edgewise.runtime.spans import Sampled, Span

TOKENS_PER_STEP = 32  # of a prompt, that may take as long as one token of an answer


def step_of(batch: Batch, epoch: int, number: int) -> tuple[messages.Step, Tensor]:
    """The message, and the token ids of all rows one behind the other: int64 [tokens]."""
    spans = tuple(
        Span(
            row.request, row.start, len(row.tokens), row.sampling, row.prefix, row.wish, row.adapter
        )
        for row in batch.rows
    )
    tokens = torch.tensor(list(chain(*(row.tokens for row in batch.rows))))
    return messages.Step(epoch, number, 0, spans, batch.dropped), tokens


def seconds_for(in_flight: Iterable[Entered], step: float, reading: float) -> float:
    """How long the next of these may take to come back, where a token of an answer may take `step`
    seconds, and `reading` layers from a disk so many: a prompt may rightly take longer."""
    batches = [entered.batch for entered in in_flight]
    tokens = sum(len(row.tokens) for batch in batches for row in batch.rows)
    return step * max(tokens / TOKENS_PER_STEP, 1) + reading * len(batches)


def back_of(
    came: messages.Message, in_flight: Mapping[int, Entered], epoch: int
) -> messages.Tokens | None:
    """What a step of this plan came to, if it is that."""
    if isinstance(came, messages.Failed) and came.step is not None and came.step in in_flight:
        return failed(in_flight[came.step].batch, epoch, came.step, error_of(came))
    return came if isinstance(came, messages.Tokens) and came.epoch == epoch else None


def failed(batch: Batch, epoch: int, number: int, error: Exception) -> messages.Tokens:
    """What a step that could not be computed gives its requests."""
    rows = tuple(Sampled(row.request, 0, str(error)) for row in batch.rows)
    return messages.Tokens(epoch, number, rows, ())
