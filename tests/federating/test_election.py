"""Leaders that change, agreement without asking, and rounds that outlive who led them."""

from collections import Counter
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgewise.errors import EdgewiseError
from edgewise.federating.averaging import fed_avg
from edgewise.federating.election import SharedRound, leader_of, merged, newest
from edgewise.federating.updates import Update
from tests.federating.updates import constant, same

CLIENTS = tuple("abcdefg")
START = SharedRound(0, None, constant("", 0.0).arrays)

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


def test_who_is_alone_leads_again_and_too_few_do_not_go_on() -> None:
    last = replace(START, leader="a")
    assert leader_of(last, ["a"]) == "a"
    with pytest.raises(EdgewiseError, match="2 clients are alive, too few for a round: 4 needed"):
        leader_of(last, ["a", "b"], least=4)
    with pytest.raises(EdgewiseError, match="0 clients"):
        leader_of(last, [])


def trained(client: str, last: SharedRound) -> Update:
    """Each client adds one more than the one before it in the alphabet."""
    return Update(client, 1, {"x": last.arrays["x"] + np.float32(1 + CLIENTS.index(client))})


def test_a_leader_that_dies_in_its_round_costs_that_round_and_nothing_else() -> None:
    """Every round's leader dies before it gives out anything; the others hold the last result."""
    alive, held = set(CLIENTS), dict.fromkeys(CLIENTS, START)
    value = 0.0
    while len(alive) > 2:
        last = newest(held[x] for x in alive)
        dead = leader_of(last, alive)
        alive.discard(dead)
        successor = leader_of(last, alive)
        assert successor != dead
        result, refused = merged(last, successor, [trained(x, last) for x in alive], fed_avg)
        assert refused == []
        held |= dict.fromkeys(alive, result)
        value += sum(1 + CLIENTS.index(x) for x in alive) / len(alive)
        assert held[successor].number == last.number + 1
        assert result.arrays["x"] == pytest.approx(value, rel=1e-5)


def test_a_result_that_only_one_got_before_the_leader_died_is_what_all_go_on_from() -> None:
    done, _ = merged(START, "a", [constant("b", 3.0)], fed_avg)
    held = {"b": done, "c": START, "d": START}
    last = newest(held.values())
    assert last is done
    assert leader_of(last, held) != "a"


def test_of_two_results_of_one_round_all_take_the_same() -> None:
    one, _ = merged(START, "a", [constant("a", 1.0)], fed_avg)
    other, _ = merged(START, "a", [constant("b", 2.0)], fed_avg)
    assert newest([one, other]) is newest([other, one])


def test_a_liar_is_refused_by_name_and_the_rest_merged() -> None:
    updates = [constant("b", 3.0), constant("liar", float("nan")), constant("a", 1.0)]
    result, refused = merged(START, "a", updates, fed_avg)
    assert (result.number, result.leader) == (1, "a")
    assert same(result.arrays, constant("", 2.0).arrays)
    assert refused == ["client 'liar' is refused: x holds what is no finite number"]
    with pytest.raises(EdgewiseError, match="no client's update can be used; client 'liar'"):
        merged(START, "a", updates[1:2], fed_avg)
