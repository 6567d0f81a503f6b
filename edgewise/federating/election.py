"""Merging without a server, as in swarm learning (Warnat-Herresthal et al., Nature 594, 2021): in
every round one of the clients leads, which gathers the updates, merges them and gives all the
result. Who leads follows from what all hold, so that nobody needs to be asked.

A leader that dies before it has given anybody the result leaves the round where it was: whoever is
alive elects another one for it, from the last round's result, which all hold. One that has given it
to some leaves it with these: `newest` of what the living hold is what all go on from."""

from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import dataclass
from hashlib import sha256

from edgewise.errors import EdgewiseError
from edgewise.federating.updates import Array, Arrays, Update, combination, sift

Rule = Callable[[Sequence[Update]], dict[str, Array]]


@dataclass(frozen=True, slots=True)
class SharedRound:
    """What all hold after a round. Number 0 is how it begins, which nobody led."""

    number: int
    leader: str | None
    arrays: Arrays


def leader_of(last: SharedRound, alive: Collection[str], seed: int = 0, least: int = 1) -> str:
    """Who leads the round after `last`: drawn by a hash of seed, round and name, so that each is as
    likely, never the last leader unless it is alone. The answer is the same for clients that differ
    over whether somebody else is alive. Raises EdgewiseError where fewer than `least` are alive: if
    that is more than half of all, two halves of a cut network cannot both go on."""
    if len(alive) < max(least, 1):
        raise EdgewiseError(f"{len(alive)} clients are alive, too few for a round: {least} needed")
    others = [client for client in alive if client != last.leader]
    return max(others or alive, key=lambda client: _draw(seed, last.number + 1, client))


def merged(
    last: SharedRound, leader: str | None, updates: Iterable[Update], rule: Rule
) -> tuple[SharedRound, list[str]]:
    """What the leader, or a server (None), gives to all: the updates merged, and whose were refused
    and why. Raises EdgewiseError where none can be used."""
    fit, refused = sift(updates, last.arrays)
    if not fit:
        raise EdgewiseError("; ".join(["no client's update can be used", *refused]))
    arrays = combination((1.0, rule(fit)))
    return SharedRound(last.number + 1, leader, arrays), refused


def newest(held: Iterable[SharedRound]) -> SharedRound:
    """What all go on from. Of two results of one round, which two leaders gave out that did not see
    each other, all take the same."""
    return max(held, key=lambda x: (x.number, x.leader or "", _digest(x.arrays)))


def _draw(seed: int, number: int, client: str) -> tuple[bytes, str]:
    return sha256(f"{seed}|{number}|{client}".encode()).digest(), client


def _digest(arrays: Arrays) -> bytes:
    digest = sha256()
    for name in sorted(arrays):
        digest.update(name.encode() + arrays[name].tobytes())
    return digest.digest()
