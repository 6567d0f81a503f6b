"""What requests cost that are served together, and whether all of them would be in time.

Of a set S, request i ends after

    t_i(S) = sum over j in S of p_j + sum over r = 1 .. n_i of D(number of j in S with n_j >= r)

where p_j are seconds in which nothing but j is served (its prompt), n_j is how many rounds j takes
part in (tokens of its answer behind the first), and D(b) how long a round of b requests takes. That
is continuous batching: whoever has its last token leaves, and rounds get shorter. With D = 0 it is
the epoch of DFTSP's paper (arXiv 2405.07140; no text of it but an outline was read, the form is a
reconstruction), in which all wait for the whole batch: t(S) = sum of p_j, p_j = beta (c^I + c^A_j)
/ C, and a set is feasible if

    t_i(S) <= s_i for every i in S              s_i: seconds that are left to i
    sum of m_j <= M, sum of u_j <= 1, sum of d_j <= 1, |S| <= slots    memory, up- and downlink

D must not shrink as b grows. Then t_i(S) only grows when S does, or when a p_j or n_j of it does:
every subset of a feasible set is feasible, and a set stays so when a request is replaced by one
that asks for no more of anything. That is all that the search (search.py) relies on.
"""

from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Candidate:
    """A request as a policy sees it: `slack` seconds are left to it, it takes `seconds` in which
    nobody else is served, `rounds` with the others, `memory` in the room's unit, and shares of up-
    and downlink. It has `waited` so many seconds."""

    number: int
    slack: float = float("inf")
    seconds: float = 0.0
    rounds: int = 0
    memory: int = 0
    uplink: float = 0.0
    downlink: float = 0.0
    waited: float = 0.0

    def asks_no_more_than(self, other: "Candidate") -> bool:
        """Whether it can take the other's place in any set."""
        return (
            self.slack >= other.slack
            and self.seconds <= other.seconds
            and self.rounds <= other.rounds
            and self.memory <= other.memory
            and self.uplink <= other.uplink
            and self.downlink <= other.downlink
        )


@dataclass(frozen=True, slots=True)
class Room:
    """What there is to share among those that are `running`, who stay, and those who join them.
    `round_seconds[b]` is what a round of b requests takes, for b up to `slots`, not falling; where
    it is empty rounds take no time."""

    slots: int
    memory: int
    round_seconds: tuple[float, ...] = ()
    running: tuple[Candidate, ...] = ()

    @property
    def free_slots(self) -> int:
        return self.slots - len(self.running)

    @property
    def free_memory(self) -> int:
        return self.memory - sum(one.memory for one in self.running)

    def fits(self, joining: Sequence[Candidate]) -> bool:
        """Whether all of them, and all that are running, would be in time, and have room."""
        members = [*self.running, *joining]
        if (
            len(members) > self.slots
            or sum(one.memory for one in members) > self.memory
            or sum(one.uplink for one in members) > 1
            or sum(one.downlink for one in members) > 1
        ):
            return False
        ends = self.end_seconds(members)
        return all(end <= one.slack for end, one in zip(ends, members, strict=True))

    def end_seconds(self, members: Sequence[Candidate]) -> list[float]:
        """When each would end, if these and no others were served."""
        ends, at = [0.0] * len(members), sum(one.seconds for one in members)
        if not self.round_seconds:
            return [at] * len(members)
        by_rounds = sorted(range(len(members)), key=lambda i: members[i].rounds)
        before = 0
        for gone, i in enumerate(by_rounds):
            rounds = members[i].rounds
            at += (rounds - before) * self.round_seconds[len(members) - gone]
            ends[i], before = at, rounds
        return ends
