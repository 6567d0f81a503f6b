import math
from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest

from edgewise.errors import EdgewiseError
from edgewise.federating.election import SharedRound, leader_of
from edgewise.federating.exchanges import ADAPTER, LOSS, SAMPLES, AskedFor, Parcel
from edgewise.federating.rounds import Merge, Merging, averaging, elected
from tests.federating.clients import START, ToyClients, adapter

TARGETS = {"a": (4, 0), "b": (0, 4), "c": (4, 4), "d": (0, 0)}
MIDDLE = (2, 2)  # of the targets


def far(arrays, place=MIDDLE):
    return float(np.linalg.norm(arrays["x.middle"] - np.array(place)))


def lies(liar, arrays):
    def twisted(name, request, parcel):
        lying = name == liar and request.wanted is AskedFor.TRAIN
        return replace(parcel, adapters={ADAPTER: arrays}) if lying else parcel

    return twisted


@pytest.mark.parametrize("merge", [Merge.MEAN, Merge.EXACT])
def test_rounds_of_means_come_to_the_middle(merge):
    rounds = list(averaging(ToyClients(TARGETS), START, 12, Merging(merge)))
    assert [x.number for x in rounds] == list(range(1, 13))
    assert far(rounds[-1].arrays) < 1e-2
    assert rounds[-1].loss < rounds[0].loss
    assert all(x.traffic.up_bytes == 4 for x in rounds)


@pytest.mark.parametrize("lie", [adapter(math.nan, 0), adapter(1, 2, 3), {}])
def test_what_cannot_be_merged_is_refused_and_the_rest_goes_on(lie):
    rounds = list(averaging(ToyClients(TARGETS, lies("d", lie)), START, 12, Merging()))
    assert all("'d' is refused" in x.refused[0] for x in rounds)
    assert far(rounds[-1].arrays, (8 / 3, 8 / 3)) < 1e-2


@pytest.mark.parametrize("merge", [Merge.MEDIAN, Merge.TRIMMED, Merge.CLIPPED, Merge.NEAR])
def test_robust_rules_hold_around_a_liar_that_the_mean_follows(merge):
    close = {"a": (3, 3), "b": (3.2, 3), "c": (3, 3.2), "d": (3.1, 3.1)}
    lie = lies("d", adapter(-1e4, -1e4))
    mean = list(averaging(ToyClients(close, lie), START, 12, Merging()))[-1]
    robust = list(averaging(ToyClients(close, lie), START, 12, Merging(merge)))[-1]
    assert far(mean.arrays, (3, 3)) > 1000
    assert far(robust.arrays, (3, 3)) < (3 if merge is Merge.CLIPPED else 0.5)


def test_a_liar_that_says_it_has_more_samples_does_not_sway_clipping():
    def twisted(name, request, parcel):
        return replace(parcel, numbers={SAMPLES: 1e9, LOSS: 0.0}) if name == "d" else parcel

    plain = list(averaging(ToyClients(TARGETS), START, 3, Merging(Merge.CLIPPED)))[-1]
    swayed = list(averaging(ToyClients(TARGETS, twisted), START, 3, Merging(Merge.CLIPPED)))[-1]
    assert np.array_equal(plain.arrays["x.middle"], swayed.arrays["x.middle"])


@pytest.mark.parametrize("rounds", [averaging, elected])
def test_the_loss_is_that_of_those_who_are_used_and_a_number(rounds):
    def twisted(name, request, parcel):
        if request.wanted is not AskedFor.TRAIN:
            return parcel
        arrays = adapter(math.nan, 0) if name == "d" else parcel.adapters[ADAPTER]
        losses = {"a": 1e308, "b": 1e308, "c": math.nan, "d": -1e308}
        return Parcel({ADAPTER: arrays}, {**parcel.numbers, LOSS: losses[name]})

    (done,) = rounds(ToyClients(TARGETS, twisted), START, 1, Merging())
    assert done.loss == pytest.approx(1e308)


def test_who_is_silent_is_missed_in_its_rounds_alone():
    def twisted(name, request, parcel):
        return None if name == "b" and request.round == 2 else parcel

    rounds = list(averaging(ToyClients(TARGETS, twisted), START, 3, Merging()))
    assert [list(x.silent) for x in rounds] == [[], ["b"], []]
    assert [len(x.answered) for x in rounds] == [4, 3, 4]


def test_who_joins_or_leaves_between_rounds_counts_from_then_on():
    clients = ToyClients({"a": (4, 0)})
    rounds = averaging(clients, START, 3, Merging())
    assert next(rounds).answered == ["a"]
    clients.targets["b"] = (0, 4)
    assert next(rounds).answered == ["a", "b"]
    del clients.targets["a"]
    assert next(rounds).answered == ["b"]


def test_a_round_that_nobody_can_be_used_in_says_why():
    clients = ToyClients({"a": (4, 0)}, lies("a", adapter(math.nan, 0)))
    with pytest.raises(EdgewiseError, match=r"no client's update can be used.*'a' is refused"):
        next(averaging(clients, START, 1, Merging()))


@pytest.mark.parametrize("merge", Merge)
def test_leaders_change_and_come_to_what_a_server_does(merge):
    merging = Merging(merge)
    led = list(elected(ToyClients(TARGETS, merging=merging), START, 6, merging))
    served = list(averaging(ToyClients(TARGETS), START, 6, merging))
    for ours, theirs in zip(led, served, strict=True):
        assert np.array_equal(ours.arrays["x.middle"], theirs.arrays["x.middle"])
    leaders = [x.leader for x in led]
    assert all(one != other for one, other in pairwise(leaders))


def test_momentum_comes_nearer_in_as_many_rounds_whoever_leads():
    plain = list(averaging(ToyClients(TARGETS), START, 3, Merging()))[-1]
    served = list(averaging(ToyClients(TARGETS), START, 3, Merging(), momentum=0.2))[-1]
    led = list(elected(ToyClients(TARGETS), START, 3, Merging(), momentum=0.2))[-1]
    assert far(served.arrays) < 0.7 * far(plain.arrays)
    assert np.array_equal(led.arrays["x.middle"], served.arrays["x.middle"])


@pytest.mark.parametrize("lie", [None, Parcel(), Parcel({ADAPTER: adapter(math.inf, 0)})])
def test_a_leader_that_does_not_deliver_is_deposed_and_the_round_is_not_lost(lie):
    first = leader_of(SharedRound(0, None, START), set(TARGETS))

    def twisted(name, request, parcel):
        return lie if name == first and request.wanted is AskedFor.LEAD else parcel

    rounds = list(elected(ToyClients(TARGETS, twisted), START, 3, Merging()))
    plain = list(elected(ToyClients(TARGETS), START, 3, Merging()))
    assert rounds[0].deposed == [first] and rounds[0].leader not in (None, first)
    for ours, theirs in zip(rounds, plain, strict=True):
        assert np.array_equal(ours.arrays["x.middle"], theirs.arrays["x.middle"])


def test_where_no_leader_delivers_it_ends():
    def twisted(name, request, parcel):
        return None if request.wanted is AskedFor.LEAD else parcel

    with pytest.raises(EdgewiseError, match="round 1: no client is left"):
        next(elected(ToyClients(TARGETS, twisted), START, 1, Merging()))
