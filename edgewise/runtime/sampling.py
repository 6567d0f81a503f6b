"""From logits to a token. Stateless: a token depends on the logits, the seed, the stream and its
position only, so a shard that takes over in the middle of an answer draws the same tokens."""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from edgewise.errors import NonFinite, PromptError

_GOLDEN = 0x9E3779B97F4A7C15  # 2^64 over the golden ratio, SplitMix64's increment


@dataclass(frozen=True, slots=True)
class Sampling:
    """`temperature` 0 is greedy. `top_k` 0 and `top_p` 1 keep every token. Requests with the same
    seed draw the same random numbers unless each has a `stream` of its own: give the samples of a
    prompt the streams 0, 1, 2, ... (`engine.samples`)."""

    temperature: float = 0.0
    top_k: int = 0
    top_p: float = 1.0
    seed: int = 0
    stream: int = 0

    def __post_init__(self) -> None:
        if not (math.isfinite(self.temperature) and self.temperature >= 0):
            raise PromptError(f"temperature must be zero or more, not {self.temperature}")
        if self.top_k < 0:
            raise PromptError(f"top-k must be zero or more, not {self.top_k}")
        if not 0 < self.top_p <= 1:
            raise PromptError(f"top-p must be above 0 and at most 1, not {self.top_p}")
        for name, value in (("seed", self.seed), ("stream", self.stream)):
            if not 0 <= value < 2**63:
                raise PromptError(f"the {name} must be between 0 and 2^63 - 1, not {value}")


def sample(logits: Tensor, sampling: Sampling, position: int) -> int:
    """The token at `position` of its sequence. logits: float32 [vocabulary]; those of minus
    infinity are never taken. Raises NonFinite where the largest is no number."""
    if not logits.max().isfinite():  # NaN, where any is: it would be taken for the largest
        raise NonFinite(f"the logits of position {position} are not finite")
    if sampling.temperature == 0:
        return int(logits.argmax())
    # Differences to the largest logit, so that no temperature is too small to divide by.
    scaled = (logits - logits.max()).double() / sampling.temperature
    ranked, order = scaled.sort(descending=True, stable=True)
    if sampling.top_k:
        ranked = ranked[: sampling.top_k]
    probabilities = ranked.softmax(-1)
    cumulative = probabilities.cumsum(-1)
    # Keep the tokens before which less than top_p has gathered: always at least one.
    kept = int((cumulative - probabilities < sampling.top_p).sum())
    threshold = _uniform(sampling, position) * float(cumulative[kept - 1])
    choice = int(torch.searchsorted(cumulative[:kept], threshold, right=True))
    return int(order[min(choice, kept - 1)])


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
