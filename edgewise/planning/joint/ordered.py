"""Cuts and schemes for a fixed order of devices, as one integer program; and orders next to a known
one, for as long as their linear relaxation promises more.

Binary x[l,k,s]: layer l in the order's k-th stage in scheme s.

    min z   s.t.  z >= latency / passes,  z >= time of each device,  loss <= budget,  bytes <= cap,
                  every stage holds a layer, and stages follow one another

`assign` asks for schemes where the cuts are fixed too: much quicker, so the searches use that.
"""

import time as clock
from collections.abc import Callable, Iterator
from itertools import pairwise, permutations

import numpy as np

from edgewise.planning.highs import Program, Solution
from edgewise.planning.joint.arrays import Bools, Floats, Ints, JointProblem, Placement, evaluate
from edgewise.planning.tables import INFINITY

Order = tuple[int, ...]  # a device may come twice
LEAST_GAIN = 1e-6  # relative, that makes an order worth solving
LEAST_SECONDS = 0.05
RELAXING, LOOKING = 0.4, 0.7  # parts of the time until all relaxations, and quick looks, are done
QUICK, PATIENCE = (
    0.08,
    0.5,
)  # parts of the time for a quick look, and of what is left for a long one
FEW = 6  # devices, whose orders are all looked at
SHIFT = 2.0  # layers from a relaxed cut
EXPANDED = 3  # best orders whose neighbours are looked at


def reordered(p: JointProblem, known: Placement, seconds: float) -> Placement:
    """The best found among the orders near `known`'s, never worse than it: a quick look at each,
    then longer ones, the best one's first."""
    began = clock.perf_counter()
    orders = _promising(p, order_of(known), began + RELAXING * seconds)
    best = _best(p, known, orders, _quickly, QUICK * seconds, began + LOOKING * seconds)
    orders.sort(key=lambda x: x[1] != order_of(best))
    return _best(p, best, orders, in_order, PATIENCE * seconds, began + seconds)


def _best(
    p: JointProblem,
    best: Placement,
    orders: list[tuple[float, Order]],
    look: Callable[[JointProblem, Order, float, Placement], Placement | None],
    seconds: float,
    end: float,
) -> Placement:
    """The best after looking at each order that may be better, for at most `seconds` each."""
    for bound, order in orders:
        left = end - clock.perf_counter()
        if left < LEAST_SECONDS:
            break
        if bound < best.objective * (1 - LEAST_GAIN):
            found = look(p, order, min(seconds, left), best)
            if found is not None and found.objective < best.objective:
                best = found
    return best


def order_of(placed: Placement) -> Order:
    return tuple(j for j, _, _ in placed.stages)


def in_order(
    p: JointProblem, order: Order, seconds: float, start: Placement | None = None
) -> Placement | None:
    """The best placement with these stages, as far as found in time; None where there is none."""
    built = _program(p, order)
    if built is None:
        return None
    program, x, z, unit = built
    if start is not None and order_of(start) != order:
        start = None
    start = start or _near_relaxed(p, order, program, x, 0.4 * seconds)
    given = None if start is None else _start(start, x, z, unit, program)
    return _placement(p, order, x, program.solve(seconds, given))


def _quickly(p: JointProblem, order: Order, seconds: float, best: Placement) -> Placement | None:
    built = _program(p, order)
    return None if built is None else _near_relaxed(p, order, built[0], built[1], seconds)


def _near_relaxed(
    p: JointProblem, order: Order, program: Program, x: Ints, seconds: float
) -> Placement | None:
    """The best with cuts a few layers from where the relaxation has them: a far smaller program."""
    relaxed = program.solve(seconds, relaxed=True)
    if relaxed.status != "optimal":
        return None
    begun = relaxed.values[x].sum(2)[:, ::-1].cumsum(1)[:, ::-1]  # [N, K], of stage k or later
    cut = np.append(len(x) - begun.sum(0), len(x))  # where a stage starts
    layer = np.arange(len(x))[:, None]
    near = (layer >= cut[:-1] - SHIFT) & (layer < cut[1:] + SHIFT)
    built = _program(p, order, near)
    return None if built is None else _placement(p, order, x, built[0].solve(seconds))


def _promising(p: JointProblem, order: Order, end: float) -> list[tuple[float, Order]]:
    """Orders and what their relaxations promise, the best first: `order`; if there are few devices,
    each once, as many as half of the time allows, those with the quickest links first; and on from
    there, always the best one's neighbours, until none of the best ones' is better."""
    known = {order: _relaxed(p, order)}
    half = 0.5 * (clock.perf_counter() + end)
    for near in _every(p):
        if clock.perf_counter() > half:
            break
        known[near] = _relaxed(p, near)
    looked: set[Order] = set()
    while clock.perf_counter() < end:
        ahead = sorted((bound, near) for near, bound in known.items())[:EXPANDED]
        bound, best = next((x for x in ahead if x[1] not in looked), (INFINITY, ()))
        if bound == INFINITY:
            break
        looked.add(best)
        for near in _neighbours(best, p.shape[1]):
            if near not in known and clock.perf_counter() < end:
                known[near] = _relaxed(p, near)
    return sorted((bound, near) for near, bound in known.items() if bound < INFINITY)


def _every(p: JointProblem) -> list[Order]:
    """All orders of few devices, no device twice, that may have room, by what they take at least;
    devices that no layer may lie on are left out."""
    usable = np.flatnonzero(p.allowed.any(0)).tolist()
    if len(usable) > FEW:
        return []
    least_bytes = float(p.bytes.min(1).sum())
    found = []
    for count in range(1, len(usable) + 1):
        for order in permutations(usable, count):
            if p.cap[list(order)].sum() < least_bytes or not p.allowed[0, order[0]]:
                continue
            hops = [float(p.hop[a, b]) for a, b in pairwise(order)]
            busy = float(p.time[:, list(order)].min(2).min(1).sum()) / (
                count if p.passes > 1 else 1
            )
            longest = max([busy, *hops]) if p.passes > 1 else 0.0
            whole = (sum(hops) + busy + p.entry[order[0]] + p.ret[order[-1]]) / p.passes
            least = max(longest, 0.0 if np.isinf(p.passes) else float(whole))
            if least < INFINITY:
                found.append((least, order))
    return [order for _, order in sorted(found)]


def _relaxed(p: JointProblem, order: Order) -> float:
    built = _program(p, order)
    if built is None:
        return INFINITY
    solved = built[0].solve(1.0, relaxed=True)
    return solved.objective * built[3] if solved.status == "optimal" else INFINITY


def _neighbours(order: Order, devices: int) -> Iterator[Order]:
    """Orders with a stage less, a stage more, another device in a place, or two places swapped."""
    for k in range(len(order)):
        yield _merged((*order[:k], *order[k + 1 :]))
        for j in range(devices):
            yield _merged((*order[:k], j, *order[k + 1 :]))
            yield _merged((*order[:k], j, *order[k:]))
        for other in range(k + 1, len(order)):
            places = list(order)
            places[k], places[other] = places[other], places[k]
            yield _merged(tuple(places))
    for j in range(devices):
        yield _merged((*order, j))


def _merged(order: Order) -> Order:
    return tuple(j for k, j in enumerate(order) if k == 0 or j != order[k - 1])


def _program(
    p: JointProblem, order: Order, near: Bools | None = None
) -> tuple[Program, Ints, Ints, float] | None:
    """The program in units of the longest layer, its x and z; None where no plan has this order.
    `near` [N, K] restricts the stages of a layer."""
    n, _, schemes = p.shape
    hops = [float(p.hop[a, b]) for a, b in pairwise(order)]
    ends = float(p.entry[order[0]] + p.ret[order[-1]]) if order else np.inf
    needed = set(np.flatnonzero(p.required).tolist())
    whole = np.isfinite(hops).all() and (np.isinf(p.passes) or np.isfinite(ends))
    if not order or len(order) > n or not whole or needed - set(order):
        return None
    places, time = np.array(order), p.time[:, list(order), :]
    usable = p.allowed[:, places, None] & (p.loss <= p.budget * (1 + 1e-12))[:, None, :]
    if near is not None:
        usable = usable & near[:, :, None]
    unit = max(float(time[usable].max(initial=0.0)), 1e-300)
    time = np.where(usable, time, 0.0) / unit
    program = Program()
    x = program.columns((n, len(order), schemes), np.where(usable, 0.0, INFINITY))
    z = program.columns((1,), 1.0, INFINITY, integer=False)
    for layer in x:
        program.row(1, 1, (layer, 1))
    for k in range(len(order)):
        program.row(1, INFINITY, (x[:, k], 1))
        for i in range(1, n if k < len(order) - 1 else 0):
            program.row(-INFINITY, 0, (x[i, : k + 1], 1), (x[i - 1, : k + 1], -1))
    steps = np.bincount(places, minlength=p.shape[1]) * p.step / unit
    for j in sorted(set(order)):
        own = np.flatnonzero(places == j)
        size = np.broadcast_to((p.bytes / p.cap[j])[:, None, :], x[:, own].shape)
        program.row(-INFINITY, 1, (x[:, own], size))
        if p.passes > 1:
            program.row(float(steps[j]), INFINITY, (z, 1), (x[:, own], -time[:, own]))
    if p.passes > 1 and hops:
        program.row(max(hops) / unit, INFINITY, (z, 1))
    if np.isfinite(p.passes):
        fixed = float(steps.sum()) + (sum(hops) + ends) / unit
        program.row(fixed, INFINITY, (z, p.passes), (x, -time))
    if np.isfinite(p.budget):
        scale = p.budget if p.budget > 0 else 1.0
        loss = np.broadcast_to((p.loss / scale)[:, None, :], x.shape)
        program.row(-INFINITY, p.budget / scale, (x, np.where(usable, loss, 0.0)))
    return program, x, z, unit


def _start(start: Placement, x: Ints, z: Ints, unit: float, program: Program) -> Floats:
    values = np.zeros(program.num_columns)
    for k, (_, first, end) in enumerate(start.stages):
        layers = np.arange(first, end)
        values[x[layers, k, start.scheme[layers]]] = 1.0
    values[z] = start.objective / unit
    return values


def _placement(p: JointProblem, order: Order, x: Ints, solved: Solution) -> Placement | None:
    if solved.status not in ("optimal", "bounded"):
        return None
    chosen = solved.values[x].reshape(len(x), -1).argmax(axis=1)
    stage, scheme = np.divmod(chosen, p.shape[2])
    return evaluate(p, np.array(order)[stage], scheme)
