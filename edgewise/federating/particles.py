"""A particle of a swarm that looks for arrays of high utility: where it is, where it is going, and
the best place that it has been at. States are never written to; a step makes another one."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace

from edgewise.federating.updates import Arrays, combination


@dataclass(frozen=True, slots=True)
class Particle:
    """`best_utility` is what was measured at `best`, and `stale` how often something was measured
    since that was no better."""

    position: Arrays
    velocity: Arrays
    best: Arrays
    best_utility: float = -math.inf
    stale: int = 0

    def at(self, position: Arrays) -> "Particle":
        """The particle after it was trained to another position, which is copied."""
        return replace(self, position=combination((1.0, position)))

    def judged(self, utility: float) -> "Particle":
        """The particle after the utility of its position was measured: the higher the better; one
        that is no number is no improvement."""
        if utility > self.best_utility:
            return replace(self, best=self.position, best_utility=utility, stale=0)
        return replace(self, stale=self.stale + 1)


def particle_of(position: Arrays, velocity: Arrays) -> Particle:
    """One that was not judged yet, of copies of the arrays."""
    copied = combination((1.0, position))
    return Particle(copied, combination((1.0, velocity)), copied)


def improving(utilities: Mapping[str, float], best_utility: float) -> str | None:
    """The client whose utility is the highest, if that is more than `best_utility`: of equals the
    first by name."""
    better = [(-utility, client) for client, utility in utilities.items() if utility > best_utility]
    return min(better)[1] if better else None
