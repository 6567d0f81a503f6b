"""A bound that holds for every plan, however often it returns to a device.

The relaxed shortest path with visits free of charge: a stage must fit its device alone, which any
plan's stages do, and the loss budget is priced. In a tied model a device that holds everything has
room for one matrix more, so the stage [0, N) gets that much more memory here.
"""

import time as clock

import numpy as np

from edgewise.planning.joint.arrays import JointProblem
from edgewise.planning.joint.ascent import ascend
from edgewise.planning.joint.integer import integer
from edgewise.planning.joint.paths import shortest
from edgewise.planning.joint.relax import Chain, Dual, Relaxation
from edgewise.planning.joint.search import MERGE_FROM, TINY, simplified
from edgewise.planning.joint.slots import Slots, classes
from edgewise.planning.joint.stages import Stages

ROUNDS = 40


def lower_bound(problem: JointProblem, shared: float, price: float, seconds: float) -> float:
    """Of the latency of every plan, `shared` bytes free in a whole model; `price` starts the search
    for a price of loss."""
    p = simplified(problem)
    slots = _free_slots(p)
    k = len(slots.count)
    relax = _relaxation(p, slots)
    dual = Dual(price, np.zeros(2), np.zeros(k))
    if p.budget > 0:
        least = p.time.min((1, 2)).sum() / p.budget
        scale = np.concatenate([[max(price / 2, 1e-3 * least)], np.zeros(k + 2)])
        dual = ascend(relax, dual, scale, np.inf, ROUNDS, clock.perf_counter() + seconds)
    lower = relax.table(dual)
    table = integer(relax.stages, lower, relax.stages.fits).bound
    if shared:
        roomy = _relaxation(p.with_(cap=p.cap + shared), slots)
        table[:, 0, -1] = np.minimum(table[:, 0, -1], roomy.table(dual).bound[:, 0, -1])
    chain = relax.chain
    value, _ = shortest(table, chain.hop, chain.start, chain.enter, chain.end)
    return float(value - dual.price * p.budget) * (1 - TINY / 100)


def _relaxation(p: JointProblem, slots: Slots) -> Relaxation:
    chain = Chain.of(p, slots, 1.0, np.inf)
    return Relaxation(Stages(p, slots, np.inf, 1.0, 0.0), chain, p.budget)


def _free_slots(p: JointProblem) -> Slots:
    """Every device, or group of equal ones, as often as one likes."""
    groups = [
        [0],
        *(classes(p) if p.shape[1] >= MERGE_FROM else [[j] for j in range(1, p.shape[1])]),
    ]
    device = np.array([group[0] for group in groups])
    hop = p.hop[np.ix_(device, device)].astype(float)
    for i, group in enumerate(groups):
        hop[i, i] = p.hop[group[0], group[1]] if len(group) > 1 else np.inf
    no = np.zeros(len(groups), dtype=bool)
    members = tuple(tuple(group) for group in groups)
    many = np.full(len(groups), p.shape[0] + 1)
    return Slots(device, members, many, hop, no, no, no, no)
