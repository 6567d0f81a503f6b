"""Leaders that change, and agreement without asking."""

from collections import Counter
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgewise.errors import EdgewiseError
from edgewise.federating.election import SharedRound, leader_of

CLIENTS = tuple("abcdefg")
START = SharedRound(0, None, {})

some_clients = st.sets(st.sampled_from(CLIENTS), min_size=2)
rounds = st.builds(SharedRound, st.integers(0, 50), st.sampled_from((None, *CLIENTS)), st.just({}))


@given(rounds, some_clients, st.integers())
def test_every_round_has_another_leader_who_is_alive(
    last: SharedRound, alive: set[str], seed: int
) -> None:
    leader = leader_of(last, alive, seed)
    assert leader in alive - {last.leader}


@given(rounds, some_clients, st.randoms())
def test_all_say_the_same_in_whatever_order_they_know_of_each_other(last, alive, random) -> None:
    assert leader_of(last, random.sample(sorted(alive), len(alive))) == leader_of(last, alive)


@given(rounds, some_clients, st.sampled_from(CLIENTS))
def test_who_thinks_that_somebody_else_is_dead_elects_the_same(last, alive, doubted) -> None:
    leader = leader_of(last, alive)
    if doubted not in (leader, last.leader) and alive - {doubted, last.leader}:
        assert leader_of(last, alive - {doubted}) == leader


def test_over_many_rounds_each_leads_about_as_often() -> None:
    last, led = START, Counter[str]()
    for _ in range(2100):
        leader = leader_of(last, CLIENTS)
        led[leader] += 1
        last = replace(last, number=last.number + 1, leader=leader)
    assert led.keys() == set(CLIENTS)
    assert all(abs(times - 300) < 75 for times in led.values())  # 5 standard deviations


def test_who_is_alone_leads_again_and_nobody_cannot() -> None:
    last = replace(START, leader="a")
    assert leader_of(last, ["a"]) == "a"
    with pytest.raises(EdgewiseError, match="no client is left"):
        leader_of(last, [])
