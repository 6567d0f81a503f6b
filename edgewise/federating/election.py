"""Merging without a server, as in swarm learning (Warnat-Herresthal et al., Nature 594, 2021): in
every round one of the clients leads, which is given the updates, merges them and gives the result.
Who leads follows from what all hold, so that nobody needs to be asked.

A leader that does not deliver leaves the round where it was: of those who are left another one is
elected for it, from the last round's result."""

from collections.abc import Collection
from dataclasses import dataclass
from hashlib import sha256

from edgewise.errors import EdgewiseError
from edgewise.federating.updates import Arrays


@dataclass(frozen=True, slots=True)
class SharedRound:
    """What all hold after a round. Number 0 is how it begins, which nobody led."""

    number: int
    leader: str | None
    arrays: Arrays


def leader_of(last: SharedRound, alive: Collection[str], seed: int = 0) -> str:
    """Who leads the round after `last`: drawn by a hash of seed, round and name, so that each is as
    likely, never the last leader unless it is alone. The answer is the same for clients that differ
    over whether somebody else is alive. Raises EdgewiseError where nobody is."""
    if not alive:
        raise EdgewiseError(f"round {last.number + 1}: no client is left that could lead it")
    others = [client for client in alive if client != last.leader]
    return max(others or alive, key=lambda client: _draw(seed, last.number + 1, client))


def _draw(seed: int, number: int, client: str) -> tuple[bytes, str]:
    return sha256(f"{seed}|{number}|{client}".encode()).digest(), client
