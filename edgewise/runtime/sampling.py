"""From logits to a token. Stateless: a token depends on the logits, the seed, the stream, its
position and, under a penalty, the tokens before it, so a shard that takes over in the middle of an
answer draws the same tokens."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from edgewise.errors import NonFinite, PromptError

_GOLDEN = 0x9E3779B97F4A7C15  # 2^64 over the golden ratio, SplitMix64's increment


@dataclass(frozen=True, slots=True)
class Sampling:
    """`temperature` 0 is greedy. `top_k` 0, `top_p` 1 and `min_p` 0 keep every token; `min_p` is a
    share of the likeliest one's probability. Requests with the same seed draw the same random
    numbers unless each has a `stream` of its own: give the samples of a prompt the streams 0, 1, 2,
    ... (`engine.samples`).

    `repetition_penalty` divides logits above zero, and multiplies others, of tokens in the prompt
    or the answer (Keskar et al. 2019); 1 leaves them. `presence_penalty` is taken off the logits of
    tokens in the answer, `frequency_penalty` as often as they are in it (OpenAI's). `logit_bias` is
    added before all that, to tokens' logits by id."""

    temperature: float = 0.0
    top_k: int = 0
    top_p: float = 1.0
    seed: int = 0
    stream: int = 0
    min_p: float = 0.0
    repetition_penalty: float = 1.0
    presence_penalty: float = 0.0
    frequency_penalty: float = 0.0
    logit_bias: tuple[tuple[int, float], ...] = ()

    def __post_init__(self) -> None:
        if not (math.isfinite(self.temperature) and self.temperature >= 0):
            raise PromptError(f"temperature must be zero or more, not {self.temperature}")
        if self.top_k < 0:
            raise PromptError(f"top-k must be zero or more, not {self.top_k}")
        if not 0 < self.top_p <= 1:
            raise PromptError(f"top-p must be above 0 and at most 1, not {self.top_p}")
        if not 0 <= self.min_p <= 1:
            raise PromptError(f"min-p must be between 0 and 1, not {self.min_p}")
        if not (math.isfinite(self.repetition_penalty) and self.repetition_penalty > 0):
            raise PromptError(
                f"the repetition penalty must be above zero, not {self.repetition_penalty}"
            )
        for name, value in (
            ("presence penalty", self.presence_penalty),
            ("frequency penalty", self.frequency_penalty),
            *((f"bias of token {token}", bias) for token, bias in self.logit_bias),
        ):
            if not math.isfinite(value):
                raise PromptError(f"the {name} must be a number, not {value}")
        for name, number in (("seed", self.seed), ("stream", self.stream)):
            if not 0 <= number < 2**63:
                raise PromptError(f"the {name} must be between 0 and 2^63 - 1, not {number}")

    @property
    def counts(self) -> bool:
        """Whether a token depends on those before it by more than the logits."""
        penalties = self.repetition_penalty - 1, self.presence_penalty, self.frequency_penalty
        return any(penalties)


@dataclass(frozen=True, slots=True)
class Past:
    """The tokens of a sequence so far; the first `prompt` of them are its prompt."""

    tokens: Sequence[int] = ()
    prompt: int = 0


def sample(
    logits: Tensor,
    sampling: Sampling,
    position: int,
    past: Past = Past(),
    allowed: Tensor | None = None,
) -> int:
    """The token at `position` of its sequence. logits: float32 [vocabulary]; those of minus
    infinity are never taken, nor what is not `allowed` (bool [vocabulary]). Raises NonFinite where
    the largest is no number."""
    largest = _largest(logits)
    if not logits[largest].isfinite():  # NaN, where any is, counts as the largest
        raise NonFinite(f"the logits of position {position} are not finite")
    adjusted = _adjusted(logits, sampling, past)
    if allowed is not None:
        adjusted = adjusted.masked_fill(~allowed, -math.inf)
    if sampling.temperature == 0:
        return largest if adjusted is logits else _largest(adjusted)
    order, probabilities = kept(adjusted, sampling)
    cumulative = probabilities.cumsum(-1)
    threshold = _uniform(sampling, position) * float(cumulative[-1])
    choice = int(torch.searchsorted(cumulative, threshold, right=True))
    return int(order[min(choice, len(order) - 1)])


def _largest(logits: Tensor) -> int:
    """Where. On processors torch's takes ten times as long as numpy's."""
    return int(logits.numpy().argmax() if logits.is_cpu else logits.argmax())


def kept(logits: Tensor, sampling: Sampling) -> tuple[Tensor, Tensor]:
    """The tokens that are drawn among at a temperature above 0, likeliest first, and their
    probabilities, float64, in proportion: they need not sum to one."""
    # Differences to the largest logit, so that no temperature is too small to divide by.
    scaled = (logits - logits.max()).double() / sampling.temperature
    ranked, order = scaled.sort(descending=True, stable=True)
    if sampling.top_k:
        ranked = ranked[: sampling.top_k]
    probabilities = ranked.softmax(-1)
    before = probabilities.cumsum(-1) - probabilities
    # Keep the tokens before which less than top_p has gathered: always at least one.
    count = int((before < sampling.top_p).sum())
    count = min(count, int((probabilities >= sampling.min_p * probabilities[0]).sum()))
    return order[:count], probabilities[:count]


def _adjusted(logits: Tensor, sampling: Sampling, past: Past) -> Tensor:
    """Bias first, then penalties: in transformers' order."""
    if not (sampling.logit_bias or sampling.counts):
        return logits
    logits = logits.clone()
    for token, bias in sampling.logit_bias:
        logits[token] += bias
    if (penalty := sampling.repetition_penalty) != 1 and past.tokens:
        seen = torch.tensor(past.tokens, device=logits.device).unique()
        at = logits[seen]
        logits[seen] = torch.where(at > 0, at / penalty, at * penalty)
    if answer := past.tokens[past.prompt :]:
        said, times = torch.tensor(answer, device=logits.device).unique(return_counts=True)
        logits[said] -= sampling.presence_penalty + times * sampling.frequency_penalty
    return logits


def _uniform(sampling: Sampling, position: int) -> float:
    """A number in [0, 1), the same on every machine: SplitMix64 of the position, under a key that
    is SplitMix64 of the stream, under one of the seed."""
    key = _mix(_mix(sampling.seed) ^ sampling.stream)
    return (_mix(key ^ position) >> 11) / 2**53


def _mix(state: int) -> int:
    """The finalizer of SplitMix64 (Steele, Lea and Flood 2014) on 64 bits."""
    z = (state + 1) * _GOLDEN % 2**64
    z = ((z ^ (z >> 30)) * 0xBF58476D1CE4E5B9) % 2**64
    z = ((z ^ (z >> 27)) * 0x94D049BB133111EB) % 2**64
    return z ^ (z >> 31)
