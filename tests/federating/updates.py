"""Updates to merge, drawn at random."""

import numpy as np
from hypothesis import strategies
from hypothesis.extra import numpy as arrays_of

from edgewise.federating.updates import Arrays, Update

SHAPES = {"0.q.middle": (3, 3), "1.down.middle": (2, 4)}


def drawn_arrays(generator: np.random.Generator) -> dict[str, np.ndarray]:
    return {x: generator.standard_normal(y).astype(np.float32) for x, y in SHAPES.items()}


def drawn_updates(clients: int, seed: int = 0) -> list[Update]:
    generator = np.random.default_rng(seed)
    return [
        Update(f"client {i}", int(generator.integers(1, 50)), drawn_arrays(generator))
        for i in range(clients)
    ]


def constant(client: str, number: float, samples: int = 1) -> Update:
    return Update(client, samples, {"x": np.full(2, number, dtype=np.float32)})


def same(one: Arrays, other: Arrays, tolerance: float = 0.0) -> bool:
    return one.keys() == other.keys() and all(
        np.allclose(one[x], other[x], rtol=0, atol=tolerance) for x in one
    )


def small_arrays(shape: tuple[int, ...]) -> strategies.SearchStrategy[np.ndarray]:
    numbers = strategies.floats(-100, 100, width=32)
    return arrays_of.arrays(np.float32, shape, elements=numbers)
