"""What a model's exits say together of the next token. Shapes: [exits, ..., vocabulary]."""

from collections.abc import Callable

import torch
from torch import Tensor

from edgewise.specs import Vote


def by_confidence(logits: Tensor) -> Tensor:
    """v(t) = max over exits of p_e(t), renormalised (Edge-LLM, 2406.15758: of every token, what the
    exit says that is surest of it). Returns log-probabilities."""
    return torch.log_softmax(logits.log_softmax(-1).amax(0), dim=-1)


def by_average(logits: Tensor) -> Tensor:
    """The mean of the exits' probabilities, as logarithms."""
    return logits.log_softmax(-1).logsumexp(0) - torch.tensor(float(len(logits))).log()


def by_last(logits: Tensor) -> Tensor:
    """The last exit's alone."""
    return logits[-1].log_softmax(-1)


VOTES: dict[Vote, Callable[[Tensor], Tensor]] = {
    Vote.CONFIDENCE: by_confidence,
    Vote.AVERAGE: by_average,
    Vote.LAST: by_last,
}
