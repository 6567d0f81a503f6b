"""FedPSO (Park, Suh and Lee, Sensors 21/2, 2021): clients are particles of a swarm. A round:

 1. each client moves towards its own best and the common best (`fed_pso_step`), trains from there
    (`Particle.at`), and measures its utility there (`Particle.judged`);
 2. all send their utilities alone; the server asks one client for its arrays, the one that is
    `improving` on the common best, if any is;
 3. those are the common best of the next round.

The published code (tjdghks994/FedPSO) differs in three ways that are mistakes: position, own best
and common best are one object, so that nothing pulls; the best score begins at 0 while losses are
minimised; and the common best is the round's, which can be worse than the last one's."""

from dataclasses import dataclass, replace

import numpy as np

from edgewise.federating.particles import Particle, particle_of
from edgewise.federating.updates import Arrays, combination


@dataclass(frozen=True, slots=True)
class FedPso:
    """The coefficients of the published code."""

    inertia: float = 0.3
    to_own: float = 0.7
    to_common: float = 1.4
    first_speed: float = 0.1


def fed_pso_start(
    arrays: Arrays, generator: np.random.Generator, pso: FedPso = FedPso()
) -> Particle:
    """A client's particle at `arrays`, its velocity drawn from U(-first_speed, first_speed)."""
    most = pso.first_speed
    drawn = {
        name: generator.uniform(-most, most, x.shape).astype(x.dtype) for name, x in arrays.items()
    }
    return particle_of(arrays, drawn)


def fed_pso_step(
    particle: Particle, common_best: Arrays, generator: np.random.Generator, pso: FedPso = FedPso()
) -> Particle:
    """v <- inertia v + to_own r1 (own best - w) + to_common r2 (common best - w), w <- w + v; r1
    and r2 are one number of U(0, 1) each, for all arrays."""
    own, common = generator.random(2) * (pso.to_own, pso.to_common)
    velocity = combination(
        (pso.inertia, particle.velocity),
        (own, particle.best),
        (common, common_best),
        (-(own + common), particle.position),
    )
    return replace(
        particle,
        position=combination((1.0, particle.position), (1.0, velocity)),
        velocity=velocity,
    )
