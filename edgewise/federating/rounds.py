"""Rounds in which all train and what they learned is merged: by the server, or by a leader that is
elected anew each round (`election`)."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from enum import StrEnum

from edgewise.errors import InputError, NothingLearned
from edgewise.federating.averaging import exact_average, fed_avg, with_momentum
from edgewise.federating.election import SharedRound, leader_of
from edgewise.federating.exchanges import (
    ADAPTER,
    SAMPLES,
    Ask,
    AskedFor,
    Clients,
    FederatedRound,
    Parcel,
    asked_all,
    mean_loss,
    sample_count,
    updates_of,
)
from edgewise.federating.robust import (
    clipped_to_median,
    coordinate_median,
    near,
    trimmed_mean,
)
from edgewise.federating.updates import Array, Arrays, Update, fault_of, sift

PROXIMAL = "proximal"
BEGAN = "/began"  # among clients' adapters: what their round began with


class Merge(StrEnum):
    """`mean`: by samples. `exact`: the same, of M alone. The rest hold around liars."""

    MEAN = "mean"
    EXACT = "exact"
    MEDIAN = "median"
    TRIMMED = "trimmed"
    CLIPPED = "clipped"
    NEAR = "near"


@dataclass(frozen=True, slots=True)
class Merging:
    """How updates are merged; `trim` is how many of the lowest and of the highest are left out."""

    merge: Merge = Merge.MEAN
    trim: int = 1

    def __call__(self, updates: Sequence[Update], start: Arrays) -> dict[str, Array]:
        """Raises InputError where the rule cannot be kept by so few."""
        match self.merge:
            case Merge.MEAN:
                return fed_avg(updates)
            case Merge.EXACT:
                return exact_average(updates)
            case Merge.MEDIAN:
                return coordinate_median(updates)
            case Merge.TRIMMED:  # with few clients left, fewer can be left out
                return trimmed_mean(updates, min(self.trim, (len(updates) - 1) // 2))
            case Merge.CLIPPED:
                return fed_avg(_equally(clipped_to_median(updates, start)))
            case Merge.NEAR:
                return fed_avg(_equally(near(updates, start)))


def averaging(
    clients: Clients,
    start: Arrays,
    rounds: int,
    merging: Merging,
    proximal: float = 0.0,
    momentum: float = 0.0,
) -> Iterator[FederatedRound]:
    """FedAvg and its kin: a round is all clients' training, merged. `proximal` is FedProx's mu,
    `momentum` FedAvgM's beta. Raises NothingLearned where nobody's update can be used."""
    before = last = SharedRound(0, None, start)
    for _ in range(rounds):
        replies, silent = _trained(clients, last, proximal)
        fit, refused = _fit(replies, last)
        mean = SharedRound(last.number + 1, None, merging(fit, last.arrays))
        before, last = last, _carried_on(mean, last, before, momentum)
        yield _round(clients, last, replies, fit, silent, refused)


def elected(
    clients: Clients,
    start: Arrays,
    rounds: int,
    merging: Merging,
    proximal: float = 0.0,
    momentum: float = 0.0,
    seed: int = 0,
) -> Iterator[FederatedRound]:
    """The same, merged by one of the clients, which another follows in the next round. One that
    does not deliver is deposed: the others elect another for the same round, from the last one's
    result. Raises EdgewiseError where nobody is left, NothingLearned as above."""
    before = last = SharedRound(0, None, start)
    for _ in range(rounds):
        replies, silent = _trained(clients, last, proximal)
        fit, refused = _fit(replies, last)
        mean, deposed = _led(clients, last, fit, seed)
        before, last = last, _carried_on(mean, last, before, momentum)
        yield _round(clients, last, replies, fit, silent, refused, deposed)


def _carried_on(
    mean: SharedRound, last: SharedRound, before: SharedRound, momentum: float
) -> SharedRound:
    """Whoever led: it takes nothing but what all hold."""
    return replace(mean, arrays=with_momentum(mean.arrays, last.arrays, before.arrays, momentum))


def _fit(replies: Mapping[str, Parcel], last: SharedRound) -> tuple[list[Update], list[str]]:
    """What can be merged, and who is refused. Raises NothingLearned where there is nothing."""
    fit, refused = sift(updates_of(replies), last.arrays)
    if not fit:
        none = f"round {last.number + 1}: no client's update can be used"
        raise NothingLearned("; ".join([none, *refused]))
    return fit, refused


def _led(
    clients: Clients, last: SharedRound, fit: Sequence[Update], seed: int
) -> tuple[SharedRound, list[str]]:
    """The round by the first leader that delivers, and who was deposed."""
    adapters = {update.client: update.arrays for update in fit}
    samples = {update.client: float(update.samples) for update in fit}
    parcel = Parcel({**adapters, BEGAN: last.arrays}, samples)
    request = Ask(AskedFor.LEAD, last.number + 1, parcel)
    alive, deposed = set(adapters), list[str]()
    while True:
        leader = leader_of(last, alive, seed)
        reply = clients.ask({leader: request}).get(leader)
        arrays = reply.adapters.get(ADAPTER, {}) if reply else {}
        if reply and fault_of(Update(leader, 1, arrays), last.arrays) is None:
            return SharedRound(last.number + 1, leader, arrays), deposed
        alive.remove(leader)
        deposed.append(leader)


def lead(parcel: Parcel, merging: Callable[..., dict[str, Array]]) -> Parcel:
    """What a leader does with the updates that it is given. Raises InputError where it is not told
    what the round began with."""
    start = parcel.adapters.get(BEGAN)
    if start is None:
        raise InputError("a leader needs to know what its round began with")
    updates = [
        Update(name, sample_count(parcel.numbers.get(name, 0)), arrays)
        for name, arrays in parcel.adapters.items()
        if name != BEGAN
    ]
    fit, _ = sift(updates, start)
    return Parcel({ADAPTER: merging(fit, start)}, {SAMPLES: float(sum(x.samples for x in fit))})


def _trained(
    clients: Clients, last: SharedRound, proximal: float
) -> tuple[dict[str, Parcel], list[str]]:
    parcel = Parcel({ADAPTER: last.arrays}, {PROXIMAL: proximal})
    return asked_all(clients, Ask(AskedFor.TRAIN, last.number + 1, parcel), clients.names())


def _round(
    clients: Clients,
    led: SharedRound,
    replies: Mapping[str, Parcel],
    fit: Sequence[Update],
    silent: Sequence[str],
    refused: Sequence[str],
    deposed: Sequence[str] = (),
) -> FederatedRound:
    loss = mean_loss(replies, [update.client for update in fit])
    return FederatedRound(
        led.number, led.arrays, sorted(replies), silent, refused, clients.moved(), loss,
        leader=led.leader, deposed=deposed,
    )  # fmt: skip


def _equally(updates: Sequence[Update]) -> list[Update]:
    """Whatever clients say of their samples."""
    return [Update(x.client, 1, x.arrays) for x in updates]
