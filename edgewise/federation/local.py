"""Clients in this process: for simulations, tests and figures."""

from collections.abc import Mapping
from contextlib import suppress
from dataclasses import replace
from functools import cache

from edgewise.errors import NonFinite
from edgewise.federating.exchanges import Ask, Parcel
from edgewise.federating.traffic import BYTES_PER_UTILITY, RoundTraffic
from edgewise.federation.learner import Learner
from edgewise.federation.model import load_shared
from edgewise.federation.settings import FederatedSettings
from edgewise.tuning.lessons import Lesson


class LocalClients:
    """Learners by name, asked one after the other. `traffic` counts what would be sent: numbers
    alone, without what frames them."""

    def __init__(self, learners: Mapping[str, Learner]) -> None:
        self._learners = dict(learners)
        self._traffic = RoundTraffic(0, 0)

    def names(self) -> list[str]:
        return sorted(self._learners)

    def ask(self, requests: Mapping[str, Ask]) -> dict[str, Parcel]:
        replies = dict[str, Parcel]()
        for name, request in requests.items():
            with suppress(NonFinite):  # of an adapter that a lie ruined: it says nothing
                replies[name] = self._learners[name].answer(request)
        down = sum(parcel_bytes(request.parcel) for request in requests.values())
        up = sum(parcel_bytes(parcel) for parcel in replies.values())
        self._traffic = replace(
            self._traffic,
            down_bytes=self._traffic.down_bytes + down,
            up_bytes=self._traffic.up_bytes + up,
        )
        return replies

    def moved(self) -> RoundTraffic:
        moved, self._traffic = self._traffic, RoundTraffic(0, 0)
        return moved


def parcel_bytes(parcel: Parcel) -> int:
    adapters = sum(x.nbytes for arrays in parcel.adapters.values() for x in arrays.values())
    return adapters + BYTES_PER_UTILITY * len(parcel.numbers)


def local_clients(
    settings: FederatedSettings, lessons: Mapping[str, tuple[list[Lesson], list[Lesson]]]
) -> dict[str, Learner]:
    """A learner for everybody's lessons, learned and held out, around one model."""
    model = cache(lambda: load_shared(settings))
    return {
        name: Learner(settings, model, learned, held_out, name)
        for name, (learned, held_out) in lessons.items()
    }
