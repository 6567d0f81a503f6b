"""Random instances whose numbers are whole or halves, so that sums are exact; and the truth."""

from itertools import combinations
from random import Random

from edgewise.batching import Candidate, Room


def draw_candidates(draw, count, links=True):
    """Of few lengths, so that there are groups of equals, with all else in conflict."""
    return [
        Candidate(
            number,
            slack=draw.choice([draw.randrange(4, 80), draw.randrange(10, 200)]),
            seconds=draw.choice([1, 2, 2, 4]),
            rounds=draw.choice([0, 4, 8, 8, 16]),
            memory=draw.randrange(1, 8),
            uplink=draw.randrange(1, 48) / 128 if links else 0.0,
            downlink=draw.randrange(1, 32) / 128 if links else 0.0,
        )
        for number in range(count)
    ]


def draw_room(draw, count):
    first, more = draw.choice([0.5, 1.0]), draw.choice([0.0, 0.25, 0.5, 1.0])
    rounds = (0.0, *(first + more * (b - 1) for b in range(1, count + 3)))
    running = draw_candidates(draw, draw.choice([0, 0, 1, 2]), links=False)
    running = tuple(
        Candidate(-1 - i, 400.0, 0.0, x.rounds, x.memory) for i, x in enumerate(running)
    )
    return Room(
        slots=draw.choice([3, count, count + 2]) + len(running),
        memory=draw.randrange(4, 6 * count) + 20,
        round_seconds=draw.choice([(), rounds]) if not running else rounds,
        running=running,
    )


def draw_instance(seed, most=9):
    draw = Random(seed)
    count = draw.randrange(1, most + 1)
    return draw_candidates(draw, count), draw_room(draw, count)


def by_hand(members, room):
    """Whether all are in time and have room, by playing the rounds one after the other."""
    everyone = [*room.running, *members]
    if len(everyone) > room.slots or sum(x.memory for x in everyone) > room.memory:
        return False
    if sum(x.uplink for x in everyone) > 1 or sum(x.downlink for x in everyone) > 1:
        return False
    now, round_number = sum(x.seconds for x in everyone), 0
    left = list(everyone)
    while left:
        if any(x.rounds <= round_number and now > x.slack for x in left):
            return False
        left = [x for x in left if x.rounds > round_number] if room.round_seconds else []
        if not room.round_seconds and any(now > x.slack for x in everyone):
            return False
        now += room.round_seconds[len(left)] if left else 0
        round_number += 1
    return True


def largest_by_brute_force(candidates, room):
    """The size of the largest feasible set, and how many sets are looked at until it is known:
    the largest first, without an idea of which cannot be."""
    looked = 0
    for size in range(len(candidates), -1, -1):
        for members in combinations(candidates, size):
            looked += 1
            if by_hand(members, room):
                return size, looked
    return 0, looked
