"""What every policy promises, and what sets each apart."""

from dataclasses import replace

import pytest

from edgewise.batching import POLICIES, Candidate, Room, dftsp
from edgewise.batching.policies import PATIENCE
from tests.batching.instances import draw_instance

QUEUE = [Candidate(number, memory=2) for number in range(5)]


def entering(name, waiting, room):
    return POLICIES[name](waiting, room)


@pytest.mark.parametrize("name", POLICIES)
def test_who_enters_has_waited_and_has_room(name):
    entered = 0
    for seed in range(300):
        waiting, room = draw_instance(seed)
        numbers = entering(name, waiting, room)
        by_number = {one.number: one for one in waiting}
        assert len(set(numbers)) == len(numbers) <= room.free_slots
        assert sum(by_number[number].memory for number in numbers) <= max(room.free_memory, 0)
        entered += len(numbers)
    assert entered > 100


@pytest.mark.parametrize("name", POLICIES)
def test_where_nothing_runs_somebody_enters(name):
    for seed in range(300):
        waiting, room = draw_instance(seed)
        room = replace(room, running=(), slots=room.slots + 1, memory=room.memory + 8)
        able = [one for one in waiting if room.fits([one])]
        assert bool(entering(name, able, room)) == bool(able)


def test_first_come_first_served_stops_at_who_does_not_fit():
    room = Room(slots=4, memory=7)
    assert entering("fcfs", QUEUE, room) == [0, 1, 2]
    large = [QUEUE[0], Candidate(1, memory=6), *QUEUE[2:]]
    assert entering("fcfs", large, room) == [0]
    assert entering("dftsp", large, room) == [0, 2, 3]


def test_a_static_batch_is_as_large_as_may_be_and_then_closed():
    room = Room(slots=3, memory=100)
    assert entering("static-batch", QUEUE, room) == [0, 1, 2]
    assert entering("static-batch", QUEUE, replace(room, running=(Candidate(9),))) == []


def test_without_batches_one_runs():
    room = Room(slots=3, memory=100)
    assert entering("no-batch", QUEUE, room) == [0]
    assert entering("no-batch", QUEUE, replace(room, running=(Candidate(9),))) == []


def test_who_has_no_deadline_does_not_wait_for_ever():
    """Though there are always shorter requests with one."""
    room = Room(slots=1, memory=10, round_seconds=(0.0, 1.0))
    quick = Candidate(1, slack=9.0, rounds=2)
    long = Candidate(0, rounds=8)
    assert dftsp([long, quick], room) == [1]
    assert dftsp([replace(long, waited=PATIENCE + 1), quick], room) == [0]
