"""DILEMMA's own program and its switches, against all placements."""

from dataclasses import replace
from itertools import pairwise, permutations, product

import numpy as np
import pytest

from edgewise.errors import Infeasible
from edgewise.planning.dilemma import DilemmaInstance, solve_instance
from tests.seeds import seeds

INFINITY = float("inf")


def random_instance(seed: int) -> DilemmaInstance:
    rng = np.random.default_rng(seed)
    layers = int(rng.integers(1, 5))
    servers = int(rng.integers(max(layers - 1, 1), 6))
    bits = ((4, 8, 16), (4, 16), (2, 6, 12))[rng.integers(3)][: 2 if layers == 4 else 3]
    steps = np.array([2.0**-b for b in bits])
    return DilemmaInstance(
        flops=rng.uniform(1e6, 1e7, layers),
        clock=rng.uniform(1e9, 4e9, servers),
        bits=bits,
        original_bits=32,
        tokens=8,
        outputs=rng.uniform(1e3, 1e4, layers),
        rate=rng.uniform(1e6, 1e9, (servers, servers)),
        propagation=rng.uniform(0, 1e-3, (servers, servers)),
        weights=rng.integers(50, 400, layers),
        storage=(rng.uniform(0.5, 3, servers) * 400 * bits[0]).astype(np.int64),
        error=rng.normal(size=(len(bits), layers)) * steps[:, None],
        delta=float(rng.choice([0.2, 0.4, 1.2])) * 2.0 ** -bits[0] * layers**0.5,
    )


def brute(x: DilemmaInstance, *, several: bool, own: bool) -> float:
    """(2a) of the best placement, infinite if there is none."""
    best, layers, servers = INFINITY, len(x.flops), range(len(x.clock))
    every = product(servers, repeat=layers) if several else permutations(servers, layers)
    paths = list(every)
    for widths in product(range(len(x.bits)), repeat=layers):
        if abs(sum(x.error[b, n] for n, b in enumerate(widths))) > x.delta:
            continue
        bits = [x.bits[b] for b in widths]
        for path in paths:
            used = dict.fromkeys(path, 0)
            for n, i in enumerate(path):
                used[i] += bits[n] * x.weights[n]
            if any(bits_used > x.storage[i] for i, bits_used in used.items()):
                continue
            seconds = sum(x.flops[n] / x.clock[i] * bits[n] / 32 for n, i in enumerate(path))
            for n, (i, k) in enumerate(pairwise(path)):
                if i != k:
                    sent = x.outputs[n] * (32 if own else bits[n])
                    seconds += sent / x.rate[i, k] + x.propagation[i, k]
            best = min(best, float(x.tokens * seconds))
    return best


@pytest.mark.parametrize(
    ("several", "own", "count"),
    [(False, False, len(seeds(60, 300))), (True, False, 60), (False, True, 60), (True, True, 60)],
)
def test_equals_brute_force(several: bool, own: bool, count: int) -> None:
    solved = refused = 0
    for seed in range(count):
        x = random_instance(seed)
        best = brute(x, several=several, own=own)
        try:
            solution = solve_instance(x, several_layers=several, own_activations=own)
        except Infeasible as error:
            assert best == INFINITY, seed
            assert str(error).startswith(("(2d)", "(2e)", "(6)", "no placement")), str(error)
            refused += 1
            continue
        assert solution.seconds == pytest.approx(best, rel=1e-9), seed
        assert (solution.status, solution.gap) == ("optimal", 0.0)
        assert set(solution.bits) <= set(x.bits)
        solved += 1
    assert solved >= count / 2
    assert refused >= 5


def test_the_paper_needs_a_server_per_layer() -> None:
    x = replace(random_instance(0), flops=np.ones(7), clock=np.ones(5))
    with pytest.raises(Infeasible, match=r"\(2d\): 7 layers need as many servers, there are 5"):
        solve_instance(x)


def test_with_storage_relaxed_a_tighter_delta_never_means_fewer_bits_in_all() -> None:
    """Section 2.3: with squared errors, equal layers and servers the ladder of Table 1 is 4, 6, 8,
    8, 10, 12 bits for delta from 1e-2 to 1e-7, for any error c 4^-(b-1) with 0.1024 < c <= 0.1638.
    """
    bits, layers = (4, 6, 8, 10, 12, 14, 16), 4
    steps = np.array([0.13 * 4.0 ** -(b - 1) for b in bits])
    x = DilemmaInstance(
        flops=np.full(layers, 1e9),
        clock=np.full(layers, 1e9),
        bits=bits,
        original_bits=32,
        tokens=1,
        outputs=np.full(layers, 1024.0),
        rate=np.full((layers, layers), 1e9),
        propagation=np.zeros((layers, layers)),
        weights=np.full(layers, 1000),
        storage=np.full(layers, 10**6),
        error=np.tile(steps[:, None], layers) / layers,
        delta=1.0,
    )
    seconds = []
    for delta, uniform in ((1e-2, 4), (1e-3, 6), (1e-4, 8), (1e-5, 8), (1e-6, 10), (1e-7, 12)):
        solution = solve_instance(replace(x, delta=delta))
        assert max(solution.bits) <= uniform, delta  # mixed widths may do with less
        assert max(solution.bits) > uniform - 4, delta
        seconds.append(solution.seconds)
    assert seconds == sorted(seconds)
