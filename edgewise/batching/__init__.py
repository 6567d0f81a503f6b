"""Which of the requests that wait are served together now, so that most of them are in time."""

from edgewise.batching.policies import POLICIES, Policy, dftsp, fcfs, no_batch, static_batch
from edgewise.batching.room import Candidate, Room
from edgewise.batching.search import Choice, largest_set

__all__ = [
    "POLICIES",
    "Candidate",
    "Choice",
    "Policy",
    "Room",
    "dftsp",
    "fcfs",
    "largest_set",
    "no_batch",
    "static_batch",
]
