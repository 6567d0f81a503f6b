"""Which of the requests that wait enter now: four answers to one question.

`fcfs`, `static-batch` and `no-batch` are what DFTSP's paper compares with, the last two in our
reading of them: they do not look at deadlines.
"""

from collections.abc import Sequence
from dataclasses import replace
from math import isinf
from typing import Protocol

from edgewise.batching.room import Candidate, Room
from edgewise.batching.search import largest_set

MOST_CHECKED = 400  # sets: some milliseconds
PATIENCE = 10.0  # seconds, of those without a deadline: there may always be some with one


class Policy(Protocol):
    def __call__(self, waiting: Sequence[Candidate], room: Room) -> list[int]:
        """The numbers of those that enter now, in their order. `waiting` is in the order of
        arrival, and whoever is in it would be in time alone. Where nothing runs, somebody does."""
        ...


def fcfs(waiting: Sequence[Candidate], room: Room) -> list[int]:
    """In the order of their arrival, as long as there are slots and memory; none overtakes."""
    entering, memory = list[int](), room.free_memory
    for one in waiting[: room.free_slots]:
        memory -= one.memory
        if memory < 0:
            break
        entering.append(one.number)
    return entering


def static_batch(waiting: Sequence[Candidate], room: Room) -> list[int]:
    """As many as there is room for, and no other until all of them are through."""
    return [] if room.running else fcfs(waiting, room)


def no_batch(waiting: Sequence[Candidate], room: Room) -> list[int]:
    """One after the other."""
    return [] if room.running else fcfs(waiting[:1], room)


def dftsp(waiting: Sequence[Candidate], room: Room) -> list[int]:
    """The most that can be served together in time, with those that run (search.py); first who has
    no deadline and has waited for long."""
    impatient = [one for one in waiting if isinf(one.slack) and one.waited > PATIENCE]
    first = fcfs(impatient, room)
    entering = [one for one in impatient if one.number in first]
    others = [one for one in waiting if one.number not in first]
    rest = replace(room, running=(*room.running, *entering))
    return first + [one.number for one in largest_set(others, rest, MOST_CHECKED).chosen]


POLICIES: dict[str, Policy] = {
    "fcfs": fcfs,
    "static-batch": static_batch,
    "no-batch": no_batch,
    "dftsp": dftsp,
}
