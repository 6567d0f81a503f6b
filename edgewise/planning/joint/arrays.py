"""The joint problem as arrays: what a placement with a scheme per layer costs, exactly.

    latency   entry + sum over stages (step + layer times) + hops between stages + return
    period    max over devices of (steps + layer times of its stages) and over used links of hop
    objective max(latency / passes, period): passes = 1 is latency alone (a period never exceeds
              the latency), passes = inf is throughput alone, passes = Q is the bubble-free period
              of Q micro-batches

Entry and return carry a token id; they count for the latency and not as links of the period.
"""

from dataclasses import dataclass, replace
from itertools import groupby, pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]
Bools = NDArray[np.bool_]
SLACK = 1e-12  # relative, for rounding


@dataclass(frozen=True)
class JointProblem:
    """N layers, M devices (the source is 0), S schemes."""

    time: Floats  # [N, M, S] seconds per token
    bytes: Floats  # [N, S]
    cap: Floats  # [M]
    loss: Floats  # [N, S], >= 0
    budget: float
    step: Floats  # [M]
    hop: Floats  # [M, M], inf without a link
    ret: Floats  # [M]
    entry: Floats  # [M]
    allowed: Bools  # [N, M]
    required: Bools  # [M]
    passes: float = 1.0

    @property
    def shape(self) -> tuple[int, int, int]:
        n, m, s = self.time.shape
        return n, m, s

    def with_(self, **changes: Any) -> "JointProblem":
        return replace(self, **changes)


@dataclass(frozen=True)
class Placement:
    """Device and scheme of every layer, and what they cost."""

    device: Ints
    scheme: Ints
    latency: float
    period: float
    loss: float
    objective: float

    @property
    def stages(self) -> list[tuple[int, int, int]]:
        return stages_of(self.device)


def stages_of(device: Ints) -> list[tuple[int, int, int]]:
    """(device, first, end) of every run of equal devices."""
    found, at = [], 0
    for name, run in groupby(device.tolist()):
        end = at + len(list(run))
        found.append((int(name), at, end))
        at = end
    return found


def evaluate(p: JointProblem, device: Ints, scheme: Ints) -> Placement | None:
    """The costs of a placement; None where it breaks a constraint. Any number of
    stages may lie on a device."""
    n, m, _ = p.shape
    rows = np.arange(n)
    stages = stages_of(device)
    names = [j for j, _, _ in stages]
    if not p.allowed[rows, device].all() or not np.isin(np.flatnonzero(p.required), names).all():
        return None
    used = np.bincount(device, weights=p.bytes[rows, scheme], minlength=m)
    loss = float(p.loss[rows, scheme].sum())
    if (used > p.cap * (1 + SLACK)).any() or loss > p.budget * (1 + SLACK):
        return None
    busy = np.bincount(names, minlength=m) * p.step
    busy += np.bincount(device, weights=p.time[rows, device, scheme], minlength=m)
    hops = [float(p.hop[a, b]) for a, b in pairwise(names)]
    latency = float(p.entry[names[0]] + busy.sum() + sum(hops) + p.ret[names[-1]])
    period = max([float(busy.max()), *hops])
    objective = period if np.isinf(p.passes) else max(latency / p.passes, period)
    if not np.isfinite(latency if np.isfinite(p.passes) else period):
        return None
    return Placement(device, scheme, latency, period, loss, objective)
