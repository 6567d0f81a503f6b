"""What the programs of `joint` read: tables of the objective, layers in classes, equal devices in
groups.

Axes as in tables.py: s scheme, i layer, j device; c is a class of layers, g a group of devices. The
score is max(latency, Q period), the programs' z a Q-th of that, in units:

    latency   first + sum of layers' seconds + moves + back          (tables.Latency)
    period    the busiest device or link; left out where Q = 1, when it is never above the latency
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np

from edgewise.planning.problem import Objective, Problem
from edgewise.planning.tables import (
    INFINITY,
    Bools,
    Floats,
    Ints,
    Latency,
    Tables,
    equal_devices,
    latency,
    tables,
)


@dataclass(frozen=True)
class View:
    """`usable[s, i, j]`: whether layer i may lie on j in s; `lanes` is Q; `unit` seconds is of the
    order of the objective; a group's devices can change places without changing any cost."""

    problem: Problem
    tables: Tables
    costs: Latency
    usable: Bools
    classes: tuple[Ints, ...]
    groups: tuple[tuple[int, ...], ...]
    lanes: int
    unit: float

    @property
    def scale(self) -> float:
        """Seconds of the score for one of a program's z."""
        return self.unit * self.lanes

    @property
    def scored(self) -> Floats:
        """The loss of every scheme and layer, 0 where nothing bounds it."""
        bounded = self.problem.budget < INFINITY
        return np.where(np.isfinite(self.tables.loss) & bounded, self.tables.loss, 0.0)

    def ways(self, order: Sequence[int]) -> float:
        """Seconds of coming in, going on along an order of devices, and going out."""
        moves = sum(float(self.costs.enter[a, b]) for a, b in pairwise(order))
        return float(self.costs.first[order[0]]) + moves + float(self.costs.back[order[-1]])

    def move(self, g: int, h: int) -> tuple[float, float]:
        """Seconds of going on from a device of one group at one of another, its step included, and
        those for which that occupies the link; infinite within a group of one device."""
        a, b = self.groups[g][0], self.groups[h][-1]
        if a == b:
            return INFINITY, 0.0
        return float(self.costs.enter[a, b]), float(self.tables.busy[a, b])


def view_of(problem: Problem) -> View:
    """Raises Infeasible where every device is forbidden."""
    arrays = tables(problem)
    throughput = problem.objective is Objective.THROUGHPUT
    costs = latency(arrays, 0.0 if throughput else problem.first_token_weight)
    fits = arrays.size[:, :, None] <= arrays.room + arrays.shared.max()
    usable = arrays.allowed & fits & (arrays.loss <= problem.budget)[:, :, None]
    least = np.where(usable, costs.seconds, INFINITY).min(axis=(0, 2)).sum()
    return View(
        problem=problem,
        tables=arrays,
        costs=costs,
        usable=usable,
        classes=_classes(arrays, costs),
        groups=equal_devices(problem, arrays),
        lanes=problem.costs.workload.micro_batches if throughput else 1,
        unit=float(least) if 0 < least < INFINITY else 1.0,
    )


def _classes(arrays: Tables, costs: Latency) -> tuple[Ints, ...]:
    """Layers that cost the same everywhere and are pinned alike, whatever they lose."""
    classes: dict[bytes, list[int]] = {}
    for i in range(arrays.num_layers):
        parts = costs.seconds[:, i], arrays.decode[:, i], arrays.size[:, i], arrays.allowed[i]
        key = b"".join(part.tobytes() for part in parts)
        classes.setdefault(key, []).append(i)
    return tuple(np.array(members) for members in classes.values())
