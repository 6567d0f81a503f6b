"""Log-probabilities: of a token in the model's own distribution, before any penalty."""

from dataclasses import dataclass

from torch import Tensor

MOST_TOP = 20  # likeliest tokens that are told beside one


@dataclass(frozen=True, slots=True)
class Score:
    """A token's log-probability, and the likeliest tokens with theirs, likeliest first."""

    token: int
    logprob: float
    top: tuple[tuple[int, float], ...] = ()


@dataclass(frozen=True, slots=True)
class PromptScores:
    """Scores of a request's prompt, from the token at `start` on."""

    request: int
    start: int
    scores: tuple[Score, ...]


def score(logits: Tensor, token: int, top: int) -> Score:
    """logits: float32 [vocabulary]."""
    logprobs = logits.double().log_softmax(-1)
    values, tokens = logprobs.topk(min(top, len(logprobs)))
    likeliest = tuple(zip(tokens.tolist(), values.tolist(), strict=True))
    return Score(token, float(logprobs[token]), likeliest)
