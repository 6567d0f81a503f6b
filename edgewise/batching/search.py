"""DFTSP's search: the largest set of requests that can be served together (arXiv 2405.07140).

What is known of the paper: the objective, max sum of x_i under the constraints of room.py; that it
is solved exactly by a depth-first search over a tree that prefers short answers, long tolerance and
little bandwidth, and prunes infeasible branches. The rest here is ours. Its published order alone
does not make it exact: within a group of equal length, tolerance and bandwidth can conflict, so
that taking the first k of a group is not enough. Here every set is a node, its children are the
sets with one more request, later in the order; a node is not entered where

- the set is infeasible: so are all that contain it;
- it and all that may still join are no larger than the best so far;
- nor would be the `easiest` company: made of the shortest answers, the longest tolerances and the
  least of all else that any of those have. If k more of them fitted, so would these k;
- a request that asks for no more was left out in favour of it: exchanged for that, the set is as
  large and as feasible. (Of a group of equals only the first k are tried.)

Feasibility must be downward closed and survive such an exchange (room.py).
"""

from collections.abc import Sequence
from dataclasses import dataclass, field

from edgewise.batching.room import Candidate, Room


@dataclass(frozen=True, slots=True)
class Choice:
    """The requests that are served together; `checked` sets, real ones and easiest ones, were
    looked at, and with `exact` no larger one is feasible."""

    chosen: tuple[Candidate, ...]
    checked: int
    exact: bool


def largest_set(candidates: Sequence[Candidate], room: Room, most_checked: int) -> Choice:
    """After `most_checked` sets it is the best that was seen."""
    search, ordered = _Search(room, most_checked), tuple(sorted(candidates, key=_published_order))
    if search.fits(ordered):
        search.best = ordered
    else:
        search.visit((), ordered)
    return Choice(search.best, search.checked, search.checked < most_checked)


def _published_order(one: Candidate) -> tuple[float, ...]:
    """Who asks for no more than another comes before it."""
    links = one.uplink, one.downlink
    return (one.rounds, one.seconds, -one.slack, *links, one.memory, one.number)


@dataclass(slots=True)
class _Search:
    room: Room
    most_checked: int
    checked: int = 0
    best: tuple[Candidate, ...] = field(default=())

    def visit(self, chosen: tuple[Candidate, ...], rest: tuple[Candidate, ...]) -> None:
        """Look at all sets of `chosen`, which is feasible, and some of `rest`."""
        if len(chosen) > len(self.best):
            self.best = chosen
        while rest and self._may_improve(chosen, rest):
            first, others = rest[0], rest[1:]
            if self.fits((*chosen, first)):
                self.visit((*chosen, first), others)
            rest = tuple(one for one in others if not first.asks_no_more_than(one))

    def _may_improve(self, chosen: tuple[Candidate, ...], rest: tuple[Candidate, ...]) -> bool:
        wanted = len(self.best) + 1 - len(chosen)
        if wanted <= 1:  # as good a test is to try
            return True
        return len(rest) >= wanted and self.fits((*chosen, *easiest(rest, wanted)))

    def fits(self, members: Sequence[Candidate]) -> bool:
        if self.checked == self.most_checked:
            return False
        self.checked += 1
        return self.room.fits(members)


def easiest(candidates: Sequence[Candidate], count: int) -> list[Candidate]:
    """Requests that need not exist: the least of everything that any `count` of these ask for, the
    quickest with the least slack."""
    seconds = sorted(one.seconds for one in candidates)[:count]
    rounds = sorted(one.rounds for one in candidates)[:count]
    slacks = sorted(one.slack for one in candidates)[-count:]
    memory = sorted(one.memory for one in candidates)[:count]
    uplinks = sorted(one.uplink for one in candidates)[:count]
    downlinks = sorted(one.downlink for one in candidates)[:count]
    columns = zip(slacks, seconds, rounds, memory, uplinks, downlinks, strict=True)
    return [Candidate(-1, *column) for column in columns]
