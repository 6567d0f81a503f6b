"""Model Swarms (Feng et al., 2410.11163): adapters as particles that look for what a utility asks
for, such as the accuracy on 200 examples, without any gradient."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from edgewise.federating.particles import Particle, particle_of
from edgewise.federating.updates import Array, Arrays, combination


@dataclass(frozen=True, slots=True)
class ModelSwarms:
    """The published code's defaults. The step shrinks by `shrinking` a round, down to `least_step`;
    a particle that has not improved for `restart_after` rounds goes back to its best; the search
    ends when the best of all has not improved for `patience` rounds."""

    inertia: float = 0.4
    to_own: float = 0.3
    to_best: float = 0.3
    from_worst: float = 0.3
    step: float = 1.0
    shrinking: float = 0.95
    least_step: float = 0.1
    restart_after: int = 5
    patience: int = 10


@dataclass(frozen=True, slots=True)
class Swarm:
    """All particles, and the best and the worst places that any of them has been at."""

    particles: tuple[Particle, ...]
    best: Arrays
    best_utility: float
    worst: Arrays
    worst_utility: float
    step: float
    stale: int = 0


def swarm_of(
    experts: Sequence[Arrays],
    utilities: Sequence[float],
    generator: np.random.Generator,
    settings: ModelSwarms = ModelSwarms(),
) -> Swarm:
    """A particle at every expert, which sets out towards another one drawn at random. Raises
    ValueError where there is only one."""
    if len(experts) < 2:
        raise ValueError("a swarm needs at least two experts")
    number = len(experts)
    others = [(i + 1 + int(generator.integers(number - 1))) % number for i in range(number)]
    particles = tuple(
        particle_of(expert, combination((1.0, experts[other]), (-1.0, expert)))
        for expert, other in zip(experts, others, strict=True)
    )
    start = particles[0].position
    unjudged = Swarm(particles, start, -math.inf, start, math.inf, settings.step)
    return swarm_judged(unjudged, utilities)


def swarm_step(
    swarm: Swarm, generator: np.random.Generator, settings: ModelSwarms = ModelSwarms()
) -> Swarm:
    """Every particle moves by `step` along its new velocity, r drawn from U(0, 1) four times each:

    v <- (r_v inertia v + r_p to_own (p - x) + r_g to_best (g - x) + r_w from_worst (x - g_w)) / C

    C being the sum of the four factors, p the particle's best, g the best and g_w the worst of
    all."""
    moved = tuple(_moved(x, swarm, generator, settings) for x in swarm.particles)
    return replace(
        swarm,
        particles=moved,
        step=max(settings.least_step, swarm.step * settings.shrinking),
    )


def swarm_judged(swarm: Swarm, utilities: Sequence[float]) -> Swarm:
    """The swarm after the utility of every particle's position was measured."""
    particles = tuple(x.judged(y) for x, y in zip(swarm.particles, utilities, strict=True))
    judged = replace(swarm, particles=particles, stale=swarm.stale + 1)
    for particle, utility in zip(particles, utilities, strict=True):  # NaN is neither
        if utility > judged.best_utility:
            judged = replace(judged, best=particle.position, best_utility=utility, stale=0)
        if utility < judged.worst_utility:
            judged = replace(judged, worst=particle.position, worst_utility=utility)
    return judged


def crossovers(
    experts: Sequence[Arrays], number: int, generator: np.random.Generator
) -> list[dict[str, Array]]:
    """More experts to begin with: w a + (1 - w) b of two of them, w drawn from U(0, 2)."""
    mixed = []
    for _ in range(number):
        one, other = generator.choice(len(experts), size=2, replace=False)
        share = generator.uniform(0.0, 2.0)
        mixed.append(combination((share, experts[one]), (1 - share, experts[other])))
    return mixed


def _moved(
    particle: Particle, swarm: Swarm, generator: np.random.Generator, settings: ModelSwarms
) -> Particle:
    if particle.stale >= settings.restart_after:
        still = combination((0.0, particle.velocity))
        particle = replace(particle, position=particle.best, velocity=still, stale=0)
    factors = generator.random(4) * (
        settings.inertia, settings.to_own, settings.to_best, settings.from_worst
    )  # fmt: skip
    inertia, own, best, worst = factors / factors.sum()
    velocity = combination(
        (inertia, particle.velocity),
        (own, particle.best),
        (best, swarm.best),
        (-worst, swarm.worst),
        (worst - own - best, particle.position),
    )
    position = combination((1.0, particle.position), (swarm.step, velocity))
    return replace(particle, position=position, velocity=velocity)
