"""Cuts and schemes for one order of devices, as an integer program.

    x[i,k,s]   layer i is in the order's k-th stage, in scheme s          0 or 1

    min z  s.t.  Q z >= first + back + moves + sum seconds x              round trip
                 z >= step and layers of each device, z >= what links and interfaces carry, if Q > 1
                 sum over k, s of x[i,k,s] = 1,  every stage holds a layer
                 sum over k' <= k of x[i,k',.] <= sum over k' <= k of x[i-1,k',.]       in order
                 sum loss x <= budget,  sum size x <= room of each device

Its linear relaxation bounds the plans of this order. With cuts free only near some place, the
program is small.
"""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise

import numpy as np

from edgewise.planning.highs import Program, Solution
from edgewise.planning.joint.view import View
from edgewise.planning.placement import alone_columns
from edgewise.planning.tables import INFINITY, Bools, Floats, Ints

Order = tuple[int, ...]  # of devices; one may come twice
CLOSE = 3e-4  # relative gap at which an order is done with
TINY = 1e-9


@dataclass(frozen=True, slots=True)
class Placed:
    """The device and the scheme of every layer."""

    device: tuple[int, ...]
    scheme: tuple[int, ...]


class Orders:
    """One order's program, whole or with stages free only where `near[i, k]`."""

    def __init__(self, view: View, order: Order) -> None:
        self.view, self.order = view, np.array(order)
        self.moves, self.ways = list(pairwise(order)), view.ways(order)

    @property
    def possible(self) -> bool:
        """Whether links lead along the order, and every required device is in it."""
        tables = self.view.tables
        must = set(np.flatnonzero(tables.required).tolist())
        there = len(self.order) <= tables.num_layers and must <= set(self.order.tolist())
        return there and self.ways < INFINITY

    @property
    def relaxed(self) -> float:
        """A bound in seconds on this order's plans."""
        return self.relaxation[0]

    @cached_property
    def relaxation(self) -> tuple[float, Floats]:
        """That bound, and how many layers each stage has there."""
        none = np.zeros(len(self.order))
        if not self.possible:
            return INFINITY, none
        program, x, _ = self._program(None, INFINITY)
        solved = program.solve(60.0, relaxed=True)
        if solved.status != "optimal":
            return INFINITY if solved.status == "infeasible" else 0.0, none
        return solved.bound * self.view.scale * (1 - TINY), solved.values[x].sum(axis=(0, 2))

    def near(
        self, layers: Sequence[float] | Floats, reach: int, nodes: int, seconds: float, below: float
    ) -> Placed | None:
        """The best plan found that takes less than `below` seconds, of those whose cuts are at most
        `reach` layers from where stages of so many layers have them."""
        if not self.possible:
            return None
        near = _near(layers, reach, self.view.tables.num_layers)
        program, x, _ = self._program(near, below)
        return self._placed(x, program.solve(seconds, nodes=nodes, gap=CLOSE))

    def best(self, nodes: int, seconds: float, below: float) -> tuple[float, Placed | None]:
        """A bound on this order's plans, at most `below`, and the best plan found that takes less
        than that."""
        if not self.possible:
            return INFINITY, None
        program, x, _ = self._program(None, below)
        solved = program.solve(seconds, nodes=nodes, gap=CLOSE)
        if solved.status == "infeasible":
            return below, None
        bound = max(self.relaxed, solved.bound * self.view.scale * (1 - TINY))
        return min(bound, below), self._placed(x, solved)

    def _placed(self, x: Ints, solved: Solution) -> Placed | None:
        if solved.status not in ("optimal", "bounded"):
            return None
        chosen = solved.values[x].reshape(len(x), -1).argmax(axis=1)
        stage, scheme = np.divmod(chosen, x.shape[2])
        return Placed(tuple(self.order[stage].tolist()), tuple(scheme.tolist()))

    def _program(self, near: Bools | None, below: float) -> tuple[Program, Ints, Ints]:
        """The program in the view's unit, its x and z."""
        view, order, tables = self.view, self.order, self.view.tables
        usable = view.usable[:, :, order].transpose(1, 2, 0)  # [i, k, s]
        if near is not None:
            usable = usable & near[:, :, None]
        program = Program()
        x = program.columns(usable.shape, 0.0, usable.astype(float))
        z = program.columns((1,), 1.0, below / view.scale, integer=False)
        for layer in x:
            program.row(1, 1, (layer, 1.0))
        self._in_order(program, x)
        seconds = np.where(usable, view.costs.seconds[:, :, order].transpose(1, 2, 0), 0.0)
        round_trip = (z, float(view.lanes)), (x, -seconds / view.unit)
        program.row(self.ways / view.unit, INFINITY, *round_trip)
        if view.lanes > 1:
            self._period(program, x, z, usable)
        for j in dict.fromkeys(order.tolist()):
            room = max(float(tables.room[j]), 1.0)
            own = x[:, order == j]
            size = np.broadcast_to(tables.size.T[:, None, :] / room, own.shape)
            shared = tables.shared if len(order) == 1 else np.zeros_like(tables.shared)
            alone = alone_columns(program, shared, x[:, 0].T)
            program.row(-INFINITY, 1.0, (own, size), (alone, -shared[: len(alone)] / room))
        if 0 < view.problem.budget < INFINITY:
            loss = np.broadcast_to(view.scored.T[:, None, :], x.shape) / view.problem.budget
            program.row(-INFINITY, 1.0, (x, np.where(usable, loss, 0.0)))
        return program, x, z

    def _in_order(self, program: Program, x: Ints) -> None:
        count = len(self.order)
        for k in range(count):
            program.row(1, INFINITY, (x[:, k], 1.0))
            for i in range(1, len(x) if k < count - 1 else 0):
                program.row(-INFINITY, 0, (x[i, : k + 1], 1.0), (x[i - 1, : k + 1], -1.0))

    def _period(self, program: Program, x: Ints, z: Ints, usable: Bools) -> None:
        view, order, tables = self.view, self.order, self.view.tables
        decode = np.where(usable, tables.decode[:, :, order].transpose(1, 2, 0), 0.0) / view.unit
        for j in dict.fromkeys(order.tolist()):
            own = order == j
            step = float(own.sum() * tables.step[j]) / view.unit
            program.row(step, INFINITY, (z, 1.0), (x[:, own], -decode[:, own]))
        busy = [float(tables.busy[move]) * times for move, times in Counter(self.moves).items()]
        busy += [float(tables.entry_busy[order[0]]), float(tables.back_busy[order[-1]])]
        busy.append(view.problem.costs.interface_seconds([tables.names[j] for j in order]))
        program.row(max(busy) / view.unit, INFINITY, (z, 1.0))


def _near(layers: Sequence[float] | Floats, reach: int, count: int) -> Bools:
    """[i, k]: layers at most `reach` before or behind stages of such lengths."""
    cut = np.concatenate(([0.0], np.cumsum(layers)))
    layer = np.arange(count)[:, None]
    return np.asarray((layer >= cut[:-1] - reach) & (layer < cut[1:] + reach))
