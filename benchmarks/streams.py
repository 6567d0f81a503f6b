"""Requests on an engine whose devices come and go, by `chaos.py` and `arrivals.py`."""

import random
from collections.abc import Iterable
from itertools import pairwise

from disturbances import Disturbance, random_plan
from places import Place

from edgewise.runtime.coordinator.coordinator import Coordinator
from edgewise.runtime.engine import Request, Token
from edgewise.runtime.transport import Envelope


class Streams:
    """Requests on an engine: their answers, and when tokens came, under which plan (its epoch)."""

    def __init__(self, engine: Coordinator) -> None:
        self.engine = engine
        self.answers: dict[int, list[int]] = {}
        self.came: list[tuple[float, int]] = []

    def submit(self, request: Request) -> list[int]:
        """Returns its tokens, as they come."""
        answer = self.answers[self.engine.submit(request)] = []
        return answer

    def step(self) -> list[Token]:
        tokens = self.engine.step()
        self._take(tokens)
        return tokens

    def _take(self, tokens: Iterable[Token]) -> None:
        for token in tokens:
            assert token.finish != "error", token.error
            self.answers[token.request].append(token.id)
            self.came.append((token.at, self.engine.workers.epoch))

    def _go_on(self, came: Envelope) -> None:
        self._take(self.engine.take(came))
        self.engine.enter()

    def seconds_after(self, what: Disturbance) -> float:
        """Until the first token of another plan; where none was needed, or others go on until there
        is one, the longest wait for a token."""
        after = [(at, epoch) for at, epoch in self.came if at > what.at]
        replanned = [at for at, epoch in after if epoch > what.epoch]
        if replanned and what.what != "join":
            return replanned[0] - what.at
        until = [at for at, _ in after if not replanned or at <= replanned[0]]
        return max((b - a for a, b in pairwise([what.at, *until])), default=0.0)

    def let_in(self, place: Place, rng: random.Random) -> None:
        """Devices that came, each with some of the layers."""
        if place.workers.arrivals:
            place.let_in(self.engine, self._go_on)
            self._take(self.engine.drain())
            self.engine.apply(random_plan(place.workers.names, self.engine.plan, rng))
