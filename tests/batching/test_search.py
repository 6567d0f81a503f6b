"""DFTSP against brute force and an integer program; the promises that its pruning rests on."""

from dataclasses import replace
from random import Random

import numpy as np
import pytest

from edgewise.batching import Candidate, Room, largest_set
from edgewise.batching.search import easiest
from edgewise.planning.highs import Program
from tests.batching.instances import (
    by_hand,
    draw_candidates,
    draw_instance,
    draw_room,
    largest_by_brute_force,
)
from tests.seeds import THOROUGH

INSTANCES = 2000 if THOROUGH else 600
LIMIT = 10**6
INFINITY = float("inf")
GOAL = 0.55  # of brute force's nodes; the paper: over 45 % less


def test_it_equals_brute_force_and_looks_at_few_of_its_sets() -> None:
    """Brute force looks at the largest sets first and stops at a feasible one."""
    looked = checked = 0
    for seed in range(INSTANCES):
        candidates, room = draw_instance(seed)
        size, sets = largest_by_brute_force(candidates, room)
        choice = largest_set(candidates, room, LIMIT)
        assert choice.exact
        assert len(choice.chosen) == size, f"seed {seed}"
        assert by_hand(choice.chosen, room) or not choice.chosen, f"seed {seed}"
        looked, checked = looked + sets, checked + choice.checked
    assert checked <= GOAL * looked


def epoch_program(candidates: list[Candidate], room: Room) -> int:
    """The paper's epoch (no rounds) as an integer program: x_i in {0, 1}, and a chosen request's
    slack bounds the whole batch, sum of p_j x_j <= s_i + (P - s_i) (1 - x_i) with P all seconds."""
    program, count = Program(), len(candidates)
    x = program.columns((count,), cost=-1.0)
    seconds = np.array([one.seconds for one in candidates])
    total = float(sum(seconds))
    for i, one in enumerate(candidates):
        spared = max(total - one.slack, 0.0)
        program.row(-INFINITY, total, (x, seconds + spared * (np.arange(count) == i)))
    program.row(-INFINITY, 1.0, (x, [one.uplink for one in candidates]))
    program.row(-INFINITY, 1.0, (x, [one.downlink for one in candidates]))
    program.row(-INFINITY, room.memory, (x, [one.memory for one in candidates]))
    program.row(-INFINITY, room.slots, (x, 1.0))
    solution = program.solve(10.0)
    assert solution.status == "optimal"
    return round(-solution.objective)


@pytest.mark.parametrize("seed", range(40))
def test_it_equals_an_integer_program_on_the_papers_epochs(seed: int) -> None:
    draw = Random(seed)
    candidates = draw_candidates(draw, 14)
    room = replace(draw_room(draw, 14), round_seconds=(), running=())
    choice = largest_set(candidates, room, LIMIT)
    assert choice.exact
    assert len(choice.chosen) == epoch_program(candidates, room)


@pytest.mark.parametrize("seed", range(200))
def test_feasible_sets_stay_so_when_they_shrink_or_ask_for_less(seed: int) -> None:
    """What makes pruning exact, of all the sets that a random order of requests goes through."""
    draw = Random(seed)
    candidates, room = draw_instance(seed)
    draw.shuffle(candidates)
    feasible = [room.fits(candidates[:size]) for size in range(len(candidates) + 1)]
    assert feasible == sorted(feasible, reverse=True)
    members = candidates[: sum(feasible) - 1] if any(feasible) else []
    for i, one in enumerate(members):
        for other in candidates:
            if other not in members and other.asks_no_more_than(one):
                assert room.fits([*members[:i], other, *members[i + 1 :]])


@pytest.mark.parametrize("seed", range(200))
def test_where_any_would_fit_the_easiest_do(seed: int) -> None:
    candidates, room = draw_instance(seed)
    for size in range(1, len(candidates) + 1):
        draw = Random(size)
        for _ in range(5):
            members = draw.sample(candidates, size)
            if room.fits(members):
                kept, rest = members[: size // 2], members[size // 2 :]
                others = [one for one in candidates if one not in kept]
                assert room.fits([*kept, *easiest(others, len(rest))])


@pytest.mark.parametrize("seed", range(100))
def test_ends_are_those_of_rounds_played_one_by_one(seed: int) -> None:
    candidates, room = draw_instance(seed)
    for size in range(len(candidates) + 1):
        assert room.fits(candidates[:size]) == by_hand(candidates[:size], room)


def test_the_published_order_alone_takes_too_many_of_a_group() -> None:
    """One length, tolerance against bandwidth: the two most tolerant do not go together, and with
    the most tolerant one only one other does."""
    group = [
        Candidate(0, slack=30, seconds=1, uplink=0.75),
        Candidate(1, slack=20, seconds=1, uplink=0.5),
        Candidate(2, slack=10, seconds=1, uplink=0.375),
        Candidate(3, slack=9, seconds=1, uplink=0.125),
    ]
    room = Room(slots=4, memory=0)
    choice = largest_set(group, room, LIMIT)
    assert [one.number for one in choice.chosen] == [1, 2, 3]
    assert not room.fits(group[:2])  # the first two in the published order


def test_who_runs_is_kept_in_time() -> None:
    running = Candidate(0, slack=10.0, rounds=8)
    room = Room(4, 10, (0.0, 1.0, 1.2, 1.5, 2.0), (running,))
    late, quick = Candidate(1, 50.0, 1.0, 8), Candidate(2, 50.0, 0.0, 3)
    assert [one.number for one in largest_set([late, quick], room, LIMIT).chosen] == [2]


def test_after_so_many_sets_the_best_so_far_is_given() -> None:
    draw = Random(1)
    candidates = draw_candidates(draw, 30)
    room = Room(30, 60)
    choice = largest_set(candidates, room, 10)
    assert choice.checked == 10
    assert not choice.exact
    assert room.fits(choice.chosen)
    assert 0 < len(choice.chosen) <= len(largest_set(candidates, room, LIMIT).chosen)
