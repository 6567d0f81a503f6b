"""Random small joint problems as arrays, and the truth about them: every route, every scheme."""

from itertools import combinations, pairwise, permutations, product

import numpy as np

from edgewise.planning.joint.arrays import Floats, JointProblem, Placement, evaluate


def losses(rng: np.random.Generator, n: int, bits: Floats) -> Floats:
    """c_l * 4^-bits with log-normal c_l; ends more sensitive; the widest scheme loses nothing."""
    c = rng.lognormal(0.0, 0.8, n)
    c[[1, -2]] *= 5
    c[[0, -1]] *= 8
    jitter = rng.lognormal(0.0, 0.15, (n, len(bits)))
    loss = c[:, None] * 4.0 ** (-bits[None, :]) * jitter
    loss[:, bits.argmax()] = 0.0
    return loss


def _pins(n: int, m: int, head: bool) -> np.ndarray:
    allowed = np.ones((n, m), bool)
    allowed[0, 1:] = False
    if head:
        allowed[-1, 1:] = False
    return allowed


def small(seed: int, passes: float) -> JointProblem:
    """Tiny and nasty: rows differ, memory binds, links asymmetric or missing, pins, overheads."""
    rng = np.random.default_rng(seed)
    n, m, s = int(rng.integers(3, 8)), int(rng.integers(2, 5)), int(rng.integers(1, 4))
    equal = rng.random() < 0.3
    bits = np.sort(rng.choice([2.0, 3.0, 4.0, 8.0], s, replace=False))
    size = np.repeat(bits[None], n, 0) * rng.uniform(0.8, 1.2, (n, 1)) + (rng.random() < 0.5)
    base = rng.lognormal(0, 0.7, m)
    time = size[:, None, :] * base[None, :, None] + rng.uniform(0, 2, (1, m, 1))
    if rng.random() < 0.5:
        time = time * rng.uniform(0.7, 1.4, time.shape)
    loss = losses(rng, n, bits)
    budget = float(rng.choice([0.0, loss[:, 0].sum() * rng.uniform(0.02, 1.0), np.inf]))
    total = size[:, -1].sum() * rng.uniform(0.4, 2.0)
    cap = total * rng.dirichlet(np.full(m, 2.0)) + size[0, 0]
    hop = rng.lognormal(0.5, 1.0, (m, m))
    hop[rng.random((m, m)) < 0.15] = np.inf
    np.fill_diagonal(hop, 0.0)
    ret, entry, step = rng.uniform(0, 3, m), rng.uniform(0, 3, m), rng.uniform(0, 2, m)
    allowed = _pins(n, m, bool(rng.random() < 0.4))
    if rng.random() < 0.25:
        allowed[0] = True
    if rng.random() < 0.2:
        allowed[1, 1:] = False
    if rng.random() < 0.2:
        allowed[:, int(rng.integers(1, m))] = False
    required = np.zeros(m, bool)
    if rng.random() < 0.2:
        required[int(rng.integers(1, m))] = True
    if equal and m > 2:
        for x in (time.swapaxes(0, 1), cap, ret, entry, step, allowed.T):
            x[2:] = x[1]
        hop[0, 1:], hop[1:, 0], hop[1:, 1:] = hop[0, 1], hop[1, 0], hop[1, 2]
        np.fill_diagonal(hop, 0.0)
    return JointProblem(
        time, size, cap, loss, budget, step, hop, ret, entry, allowed, required, passes
    )


def brute(p: JointProblem) -> Placement | None:
    n, m, s = p.shape
    choices = np.array(list(product(range(s), repeat=n)))
    fine = p.loss[np.arange(n), choices].sum(1) <= p.budget * (1 + 1e-9) + 1e-15
    choices = choices[fine]
    best: Placement | None = None
    for count in range(1, min(n, m + 1) + 1):
        for order in _orders(m, count):
            for cuts in combinations(range(1, n), count - 1):
                device = np.repeat(order, np.diff([0, *cuts, n]))
                found = _best(p, device, choices)
                if found is not None and (best is None or found.objective < best.objective):
                    best = found
    return best


def _orders(m: int, count: int) -> list[tuple[int, ...]]:
    plain = list(permutations(range(m), count))
    if count >= 3:
        plain += [(0, *mid, 0) for mid in permutations(range(1, m), count - 2)]
    return plain


def _best(p: JointProblem, device: np.ndarray, choices: np.ndarray) -> Placement | None:
    n, m, _ = p.shape
    if not len(choices) or not p.allowed[np.arange(n), device].all():
        return None
    one = np.eye(m)[device]
    used = p.bytes[np.arange(n), choices] @ one
    busy = p.time[np.arange(n), device, choices] @ one
    order = [device[0], *[b for a, b in pairwise(device) if a != b]]
    busy = busy + np.bincount(order, minlength=m) * p.step
    hops = [p.hop[a, b] for a, b in pairwise(order)]
    latency = p.entry[order[0]] + busy.sum(1) + sum(hops) + p.ret[order[-1]]
    period = np.maximum(busy.max(1), max(hops, default=0.0))
    value = period if np.isinf(p.passes) else np.maximum(latency / p.passes, period)
    value = np.where((used <= p.cap * (1 + 1e-9)).all(1), value, np.inf)
    at = int(value.argmin())
    return evaluate(p, device, choices[at]) if np.isfinite(value[at]) else None
