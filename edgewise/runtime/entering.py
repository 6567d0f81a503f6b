"""A batch as it enters the first stage of a pipeline, and as it fails there."""

from itertools import chain

import torch
from torch import Tensor

from edgewise.runtime import messages
from edgewise.runtime.batches import Batch
from edgewise.runtime.spans import Sampled, Span


def step_of(batch: Batch, epoch: int, number: int) -> tuple[messages.Step, Tensor]:
    """The message, and the token ids of all rows one behind the other: int64 [tokens]."""
    spans = tuple(
        Span(row.request, row.start, len(row.tokens), row.sampling, row.prefix, row.wish)
        for row in batch.rows
    )
    tokens = torch.tensor(list(chain(*(row.tokens for row in batch.rows))))
    return messages.Step(epoch, number, 0, spans, batch.dropped), tokens


def failed(batch: Batch, epoch: int, number: int, error: Exception) -> messages.Tokens:
    """What a step that could not be computed gives its requests."""
    rows = tuple(Sampled(row.request, 0, str(error)) for row in batch.rows)
    return messages.Tokens(epoch, number, rows, ())
