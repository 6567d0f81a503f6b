"""Requests with mixed deadlines, as they arrive at a server that cannot answer all of them."""

from collections.abc import Sequence
from dataclasses import dataclass
from random import Random

from edgewise.batching.pace import Pace
from edgewise.runtime.engine import Request

VOCABULARY = 300


@dataclass(frozen=True, slots=True)
class Incoming:
    """A request, and the clock at its arrival."""

    at: float
    request: Request


@dataclass(frozen=True, slots=True)
class Served:
    """What became of it: the clock at its end, and whether it was refused there."""

    asked: Incoming
    ended: float
    refused: bool

    @property
    def in_time(self) -> bool:
        within = self.asked.request.deadline or float("inf")
        return not self.refused and self.ended - self.asked.at <= within


@dataclass(frozen=True, slots=True)
class Traffic:
    """Poisson arrivals, `load` times as many as the server can answer where it is always full.
    Lengths and `patience`, times the seconds that a request would take alone, are drawn evenly."""

    load: float
    count: int = 100
    prompts: tuple[int, ...] = (16, 32, 64)
    answers: tuple[int, ...] = (8, 16, 32, 64)
    patience: tuple[float, float] = (1.5, 12.0)

    def draw(self, pace: Pace, seed: int) -> list[Incoming]:
        """No two share a prefix."""
        draw, at, asked = Random(seed), 0.0, list[Incoming]()
        rate = self.load / self.seconds_a_request(pace)
        for number in range(self.count):
            prompt, new = draw.choice(self.prompts), draw.choice(self.answers)
            alone = pace.prompt_seconds(prompt) + (new - 1) * pace.round_seconds[1]
            first = (number // VOCABULARY, number % VOCABULARY)
            tokens = (*first, *(draw.randrange(VOCABULARY) for _ in range(prompt - len(first))))
            deadline = draw.uniform(*self.patience) * alone
            asked.append(Incoming(at, Request(tokens, new, deadline=deadline)))
            at += draw.expovariate(rate)
        return asked

    def seconds_a_request(self, pace: Pace) -> float:
        """On average, at a server that is full: prompts one by one, rounds shared."""
        prompts = sum(map(pace.prompt_seconds, self.prompts)) / len(self.prompts)
        together = len(pace.round_seconds) - 1
        rounds = sum(self.answers) / len(self.answers) - 1
        return prompts + rounds * pace.round_seconds[-1] / together


def share_in_time(served: Sequence[Served]) -> float:
    return sum(one.in_time for one in served) / len(served)
