"""When requests arrive."""

import random

from edgewise.simulation.trace import Arrival


def together(count: int, prompt_tokens: int, new_tokens: int) -> list[Arrival]:
    """All at once, at time 0."""
    return [Arrival(0.0, prompt_tokens, new_tokens)] * count


def poisson(
    count: int, per_second: float, prompt_tokens: int, new_tokens: int, *, seed: int = 0
) -> list[Arrival]:
    """The first at time 0, the others after exponential gaps of mean 1 / `per_second` seconds."""
    if not per_second > 0:
        raise ValueError(f"requests must arrive at a positive rate, not {per_second} per second")
    draw, at, arrivals = random.Random(seed), 0.0, []
    for _ in range(count):
        arrivals.append(Arrival(at, prompt_tokens, new_tokens))
        at += draw.expovariate(per_second)
    return arrivals
