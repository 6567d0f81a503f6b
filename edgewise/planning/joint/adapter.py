"""A Problem as a JointProblem: seconds added up as the objective weighs them.

    latency      decode + w * prefill of every term, w = first_token_weight; passes = 1
    throughput   a round of Q micro-batches takes max(round trip, Q * bottleneck)
                 = Q * max(round trip / Q, bottleneck); passes = Q. One lane's round trip is never
                 below the bottleneck.

Device 0 of the arrays is the one that may hold a stage at each end of the chain, for privacy: where
layer 0 is pinned, else the source. A required device 0 that no pin makes sure of would be forgotten
by the slots, so another one, or a device that holds nothing, takes its place.
"""

from dataclasses import dataclass

import numpy as np

from edgewise.planning.joint.arrays import Bools, Floats, JointProblem
from edgewise.planning.problem import Objective, Problem
from edgewise.planning.tables import Tables, latency


@dataclass(frozen=True)
class Adapted:
    """`devices[j]` is the name behind device j, empty for the stand-in; the objective is `scale`
    times the arrays' one."""

    arrays: JointProblem
    devices: tuple[str, ...]
    scale: float


def adapt(problem: Problem, found: Tables) -> Adapted:
    pinned = set(problem.pinned.values())
    required = found.required & np.array([name not in pinned for name in found.names])
    allowed = found.allowed & (found.room > 0)
    order = _order(problem, found, required)
    p = _arrays(problem, found, required, allowed)
    if order is None:
        return Adapted(_with_stand_in(p), ("", *found.names), _lanes(problem))
    turned = p.with_(
        time=p.time[:, order],
        cap=p.cap[order],
        step=p.step[order],
        hop=p.hop[np.ix_(order, order)],
        ret=p.ret[order],
        entry=p.entry[order],
        allowed=p.allowed[:, order],
        required=p.required[order],
    )
    return Adapted(turned, tuple(found.names[j] for j in order), _lanes(problem))


def _lanes(problem: Problem) -> float:
    if problem.objective is Objective.LATENCY:
        return 1.0
    return float(problem.costs.workload.micro_batches)


def _order(problem: Problem, found: Tables, required: Bools) -> list[int] | None:
    """Devices with a proper first one in front; None where there is none."""
    first = found.names.index(problem.pinned.get(0, found.names[0]))
    if required[first]:
        others = np.flatnonzero(~required)
        if not others.size:
            return None
        first = int(others[0])
    return [first, *[j for j in range(len(found.names)) if j != first]]


def _arrays(problem: Problem, found: Tables, required: Bools, allowed: Bools) -> JointProblem:
    weight = problem.first_token_weight if problem.objective is Objective.LATENCY else 0.0
    costs = latency(found, weight)
    step = (1 + weight) * found.step
    hop = found.hop + (weight * found.prompt_hop if weight else 0.0)
    budget = problem.budget
    loss = found.loss.T
    if np.isfinite(budget):  # an infinite loss is as good as any beyond the budget
        loss = np.minimum(loss, 2 * abs(budget) + 1.0)
    return JointProblem(
        time=np.ascontiguousarray(costs.seconds.transpose(1, 2, 0)),
        bytes=found.size.T.astype(np.float64),
        cap=np.maximum(found.room, 1).astype(np.float64),
        loss=np.ascontiguousarray(loss),
        budget=budget,
        step=step,
        hop=hop,
        ret=costs.back,
        entry=(1 + weight) * found.entry,
        allowed=allowed,
        required=required,
        passes=_lanes(problem),
    )


def _with_stand_in(p: JointProblem) -> JointProblem:
    """A device in front that can hold nothing and reach nobody."""
    n, m, _ = p.shape
    hop = np.full((m + 1, m + 1), np.inf)
    hop[1:, 1:] = p.hop
    hop[0, 0] = 0.0

    def front(value: float, row: Floats) -> Floats:
        return np.concatenate([[value], row])

    return p.with_(
        time=np.concatenate([p.time.max(1, keepdims=True), p.time], axis=1),
        cap=front(1.0, p.cap),
        step=front(0.0, p.step),
        hop=hop,
        ret=front(np.inf, p.ret),
        entry=front(np.inf, p.entry),
        allowed=np.hstack([np.zeros((n, 1), dtype=bool), p.allowed]),
        required=np.concatenate([[False], p.required]),
    )
