import math
from dataclasses import replace

import numpy as np
import pytest

from edgewise.errors import EdgewiseError
from edgewise.federating.exchanges import ADAPTER, SAMPLES, UTILITY, AskedFor, Parcel
from edgewise.federating.swarming import fed_pso, model_swarms
from tests.federating.clients import START, ToyClients, adapter

TARGETS = {"a": (4, 0), "b": (0, 4), "c": (4, 4)}


def test_fed_pso_asks_one_client_for_its_adapter_and_never_gets_worse():
    clients = ToyClients(TARGETS)
    rounds = list(fed_pso(clients, START, 6))
    sends = [asked for asked in clients.asked if AskedFor.SEND in asked.values()]
    assert all(len(asked) == 1 for asked in sends) and 1 <= len(sends) <= 6
    utilities = [x.utility for x in rounds]
    assert utilities == sorted(utilities) and utilities[-1] > utilities[0]


@pytest.mark.parametrize("sent", [None, Parcel({ADAPTER: adapter(math.nan, 0)})])
def test_fed_pso_passes_over_who_does_not_send(sent):
    def twisted(name, request, parcel):
        return sent if name == "a" and request.wanted is AskedFor.SEND else parcel

    first = next(fed_pso(ToyClients({"a": (1, 0), "b": (0, 4)}, twisted), START, 1))
    assert "'a' is refused" in first.refused[0]
    assert np.array_equal(first.arrays["x.middle"], [0, 2])


def test_fed_pso_does_not_follow_a_utility_that_is_no_number():
    def twisted(name, request, parcel):
        lying = name == "c" and request.wanted is AskedFor.SWIM
        return replace(parcel, numbers={UTILITY: math.inf}) if lying else parcel

    rounds = list(fed_pso(ToyClients(TARGETS, twisted), START, 3))
    assert all("'c' is refused" in x.refused[0] for x in rounds)
    assert math.isfinite(rounds[-1].utility)


def test_fed_pso_ends_where_nobody_answers():
    with pytest.raises(EdgewiseError, match="no client answered"):
        next(fed_pso(ToyClients(TARGETS, lambda *_: None), START, 1))


def test_model_swarms_finds_more_than_any_expert_for_what_all_judge():
    rounds = list(model_swarms(ToyClients(TARGETS), START, 20, seed=1))
    utilities = [x.utility for x in rounds]
    assert utilities == sorted(utilities)
    experts = [np.array(target) / 2 for target in TARGETS.values()]
    best = max(
        -np.mean([np.linalg.norm(expert - np.array(t)) for t in TARGETS.values()])
        for expert in experts
    )
    assert utilities[-1] > best + 0.1


def test_model_swarms_are_as_their_seed_says_and_end_when_patience_does():
    def flat(name, request, parcel):
        if request.wanted is not AskedFor.JUDGE:
            return parcel
        return Parcel({}, {**dict.fromkeys(parcel.numbers, 0.5), SAMPLES: 10.0})

    one, again, other = (
        [x.utility for x in model_swarms(ToyClients(TARGETS), START, 9, seed)] for seed in (1, 1, 2)
    )
    assert one == again != other
    rounds = list(model_swarms(ToyClients(TARGETS, flat), START, 100))
    assert len(rounds) == 11  # the first, and 10 without anything better


@pytest.mark.parametrize("samples", [-29.0, 0.0, math.nan, 1e300])
def test_model_swarms_does_not_weigh_by_what_is_no_number_of_samples(samples):
    def twisted(name, request, parcel):
        lying = name == "c" and request.wanted is AskedFor.JUDGE
        return replace(parcel, numbers={**parcel.numbers, SAMPLES: samples}) if lying else parcel

    def silent(name, request, parcel):
        return None if name == "c" and request.wanted is AskedFor.JUDGE else parcel

    lied = list(model_swarms(ToyClients(TARGETS, twisted), START, 5))
    without = list(model_swarms(ToyClients(TARGETS, silent), START, 5))
    assert [x.utility for x in lied] == [x.utility for x in without]


def test_model_swarms_goes_on_without_judges_and_needs_two_experts():
    def twisted(name, request, parcel):
        silent = request.wanted is AskedFor.JUDGE and (name == "a" or request.round == 3)
        return None if silent else parcel

    rounds = list(model_swarms(ToyClients(TARGETS, twisted), START, 6))
    assert "a" in rounds[-1].silent and rounds[-1].utility > -math.inf
    with pytest.raises(EdgewiseError, match="two experts"):
        next(model_swarms(ToyClients({"a": (1, 1)}), START, 2))
