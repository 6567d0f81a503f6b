"""What a server and its clients say to each other in a round, whatever carries it, and what came of
the round. The algorithms (`rounds`, `swarming`) ask `Clients`; in a process they are objects, over
a network they are whoever answers in time."""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Protocol

from edgewise.federating.traffic import RoundTraffic
from edgewise.federating.updates import Arrays, Update

ADAPTER = "adapter"  # what a parcel's only adapter is called
LOSS, RIGHT, SAMPLES, UTILITY = "loss", "right", "samples", "utility"


class AskedFor(StrEnum):
    """What a client is asked for.

    train   learn from its own data from the adapter it is given on; the adapter, its samples, loss
    swim    the same of a particle, which it keeps, towards the adapter it is given; its utility
    send    what its particle is at; the adapter
    judge   its own held-out data by each adapter it is given; a utility each, by name
    lead    merge the clients' adapters, given by name; the result
    """

    TRAIN = "train"
    SWIM = "swim"
    SEND = "send"
    JUDGE = "judge"
    LEAD = "lead"


@dataclass(frozen=True, slots=True)
class Parcel:
    """Adapters and numbers by name."""

    adapters: Mapping[str, Arrays] = field(default_factory=dict)
    numbers: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Ask:
    """`round` is the number of the round that it is for."""

    wanted: AskedFor
    round: int
    parcel: Parcel = Parcel()


class Clients(Protocol):
    def names(self) -> list[str]:
        """Who is there now: one that joined is, one that left is not."""
        ...

    def ask(self, requests: Mapping[str, Ask]) -> dict[str, Parcel]:
        """The answers of those who gave one in time, by name."""
        ...

    def moved(self) -> RoundTraffic:
        """What was moved since this was last asked, measured on what was sent."""
        ...


@dataclass(frozen=True, slots=True)
class FederatedRound:
    """What came of a round. `loss` is the mean of the clients' while they learned, nats per token;
    `utility` the best that was found so far, of what looks for one; `silent` were asked and did not
    answer; `refused` says whose answer was not used, and why; `deposed` led and did not deliver."""

    number: int
    arrays: Arrays
    answered: Sequence[str]
    silent: Sequence[str]
    refused: Sequence[str]
    traffic: RoundTraffic
    loss: float | None = None
    utility: float | None = None
    leader: str | None = None
    deposed: Sequence[str] = ()


def asked_all(
    clients: Clients, request: Ask, names: Sequence[str]
) -> tuple[dict[str, Parcel], list[str]]:
    """The answers of all `names` to one request, and who was silent."""
    replies = clients.ask(dict.fromkeys(names, request))
    return replies, [name for name in names if name not in replies]


def updates_of(replies: Mapping[str, Parcel]) -> list[Update]:
    """What clients sent, as it is merged; what is missing is refused there."""
    return [
        Update(name, sample_count(reply.numbers.get(SAMPLES, 0)), reply.adapters.get(ADAPTER, {}))
        for name, reply in replies.items()
    ]


def mean_loss(replies: Mapping[str, Parcel], used: Iterable[str]) -> float | None:
    """Of those that are numbers."""
    said = [replies[name].numbers.get(LOSS, math.nan) for name in used]
    losses = [loss for loss in said if math.isfinite(loss)]
    return sum(loss / len(losses) for loss in losses) if losses else None


def sample_count(number: float) -> int:
    """What a client says of its samples, 0 where that is no such number."""
    return int(number) if 0 < number < 2**31 else 0  # NaN is neither
