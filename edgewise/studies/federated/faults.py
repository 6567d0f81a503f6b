"""Clients of which one fails or lies in each round."""

from collections.abc import Callable, Mapping

import numpy as np

from edgewise.federating.exchanges import ADAPTER, Ask, AskedFor, Clients, Parcel
from edgewise.federating.traffic import RoundTraffic
from edgewise.federating.updates import Array, Arrays

Lie = Callable[[Arrays, Arrays], dict[str, Array]]  # what was learned, and from where


class FaultyClients:
    """`clients`, of which in every round another one is silent (`lost`), or sends what a lie makes
    of what it learned."""

    def __init__(self, clients: Clients, lie: Lie | None = None, *, lost: bool = False) -> None:
        self._clients, self._lie, self._lost = clients, lie, lost

    def names(self) -> list[str]:
        return self._clients.names()

    def ask(self, requests: Mapping[str, Ask]) -> dict[str, Parcel]:
        if any(ask.wanted is not AskedFor.TRAIN for ask in requests.values()):
            return self._clients.ask(requests)
        number = next(iter(requests.values())).round
        names = self.names()
        chosen = names[number % len(names)]
        asked = {name: x for name, x in requests.items() if not (self._lost and name == chosen)}
        replies = self._clients.ask(asked)
        if self._lie and chosen in replies:
            reply, start = replies[chosen], requests[chosen].parcel.adapters[ADAPTER]
            lie = self._lie(reply.adapters[ADAPTER], start)
            replies[chosen] = Parcel({ADAPTER: lie}, reply.numbers)
        return replies

    def moved(self) -> RoundTraffic:
        return self._clients.moved()


def not_a_number(learned: Arrays, start: Arrays) -> dict[str, Array]:
    return {name: np.full_like(x, np.nan) for name, x in learned.items()}


def scaled(learned: Arrays, start: Arrays) -> dict[str, Array]:
    """A hundred times as far as it moved."""
    return {name: start[name] + 100 * (x - start[name]) for name, x in learned.items()}


def sign_flipped(learned: Arrays, start: Arrays) -> dict[str, Array]:
    """As far as it moved, times three, the other way."""
    return {name: start[name] - 3 * (x - start[name]) for name, x in learned.items()}


LIES: Mapping[str, Lie] = {
    "not a number": not_a_number, "scaled by 100": scaled, "flipped, times 3": sign_flipped
}  # fmt: skip
