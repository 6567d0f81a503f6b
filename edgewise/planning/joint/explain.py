"""Why a plan is what it is: what binds, why a device is unused, what would help most.

An unused device is put into the plan's order where that costs least; what would help is the same
order with one figure changed. Both compare linear relaxations (orders.py), so differences are near,
not exact. They take no more work than WORK allows.
"""

from collections.abc import Iterator
from dataclasses import replace
from itertools import pairwise
from typing import Any

import numpy as np

from edgewise.estimates import busy_seconds
from edgewise.planning.joint.orders import Order, Orders
from edgewise.planning.joint.view import View
from edgewise.planning.problem import PlanResult
from edgewise.planning.tables import INFINITY, Floats, Ints
from edgewise.units import format_bytes

WORK = 24_000  # columns of all relaxations together
FEW = 3  # relaxations, below which there are none
MOST_UNUSED = 8  # devices named one by one
MORE_MEMORY, MORE_LOSS, FASTER = 0.25, 0.1, 2.0  # what is tried out
BINDS = 0.995
WORTH = 1e-3  # of the score, that a change must save to be named


class Explained:
    """A plan, and what is needed to say why."""

    def __init__(self, view: View, best: PlanResult) -> None:
        self.view, self.best = view, best
        names, schemes = view.tables.names, view.tables.schemes
        stages = best.plan.stages
        self.order: Order = tuple(names.index(stage.device) for stage in stages)
        self.device: Ints = np.repeat(self.order, [len(stage.schemes) for stage in stages])
        self.scheme: Ints = np.array([schemes.index(name) for name in best.plan.schemes])
        self.score = view.problem.score(best.estimate)
        self.unit = "ms/round" if view.lanes > 1 else "ms/token"
        columns = len(self.device) * (len(self.order) + 1) * len(schemes)
        self.trials = WORK // columns if columns * FEW <= WORK else 0
        self.now = Orders(view, self.order).relaxed if self.trials else 0.0

    def sentences(self) -> tuple[str, ...]:
        return (*self._binding(), *self._unused(), *self._help())

    # -- what binds

    @property
    def used(self) -> Floats:
        """Bytes of layers on every device."""
        size = self.view.tables.size[self.scheme, np.arange(len(self.scheme))]
        return np.bincount(self.device, size, len(self.view.tables.names)).astype(np.float64)

    def _tight(self) -> list[int]:
        """Used devices without room for a layer's next larger scheme, or for another layer."""
        tables, used, layers = self.view.tables, self.used, np.arange(len(self.scheme))
        tight = []
        for j in dict.fromkeys(self.order):
            here, room = self.device == j, float(tables.room[j] - used[j])
            more = tables.size - tables.size[self.scheme, layers]
            larger = np.where((more > 0) & self.view.usable[:, :, j], more, INFINITY)
            least = larger[:, here].min(axis=0)  # that each layer here takes more in a larger one
            full = not here.all() and tables.size[:, ~here].min() > room
            if full or (np.isfinite(least) & (least > room)).any():
                tight.append(j)
        return tight

    def _binding(self) -> Iterator[str]:
        view, tables, problem = self.view, self.view.tables, self.view.problem
        used, names = self.used, tables.names
        parts = [
            f"memory of '{names[j]}' ({format_bytes(int(used[j]))} of "
            f"{format_bytes(int(tables.room[j]))})"
            for j in self._tight()
        ]
        if self.best.estimate.loss > 0.98 * problem.budget:
            parts.append(f"quality (loss {self.best.estimate.loss:.4g} of {problem.budget:.4g})")
        pinned = len(problem.pinned)
        if pinned and len(names) > 1:
            parts.append(f"pins of {pinned} layer{'s' if pinned > 1 else ''}")
        if view.lanes > 1:
            parts += [f"time of {what}" for what in self._busiest()]
        if parts:
            yield "binding: " + ", ".join(parts)

    def _busiest(self) -> list[str]:
        """Devices, links and interfaces that are busy all the time."""
        busy = busy_seconds(self.best.estimate.stages, self.best.estimate.back)
        least = BINDS * self.score / self.view.lanes
        return [
            f"'{what}'" if what.computes else f"{'' if what.way else 'link '}{what}"
            for what, seconds in busy.items()
            if seconds >= least
        ]

    # -- what else there could be

    def _unused(self) -> Iterator[str]:
        view, names = self.view, self.view.tables.names
        free = [j for j in range(len(names)) if j not in self.order]
        for j in free[:MOST_UNUSED]:
            if not view.usable[:, :, j].any():
                yield f"{names[j]} unused: no layer may lie there or fits"
            elif not np.isfinite(places := self._places(j)).any():
                yield f"{names[j]} unused: no link leads there and on"
            elif self.trials <= 0:
                yield f"{names[j]} unused"
            else:
                yield f"{names[j]} unused: {self._adding(j, int(places.argmin()))}"
        if len(free) > MOST_UNUSED:
            yield f"{len(free) - MOST_UNUSED} more devices unused"

    def _adding(self, j: int, place: int) -> str:
        self.trials -= 1
        order = (*self.order[:place], j, *self.order[place:])
        more = Orders(self.view, order).relaxed - self.now
        if more <= 0:
            return "adding it gains nothing that is proven"
        costs = f"adding it costs {more * 1e3:.3g} {self.unit}"
        return costs if more < INFINITY else "there is no room for a layer of its own"

    def _places(self, j: int) -> Floats:
        """Seconds of the detour over device j, before each stage and after the last."""
        order, ways = self.order, self.view.ways
        detour = np.array([ways((*order[:k], j, *order[k:])) for k in range(len(order) + 1)])
        detour -= ways(order)
        if not self.view.usable[:, 0, j].any():
            detour[0] = INFINITY
        if not self.view.usable[:, -1, j].any():
            detour[-1] = INFINITY
        return detour

    def _help(self) -> Iterator[str]:
        """The change that saves most in this order."""
        saved, what = max(self._changes(), default=(0.0, ""))
        if saved > WORTH * self.score:
            yield f"what would help most: {what} (about {saved * 1e3:.3g} {self.unit} less)"

    def _changes(self) -> Iterator[tuple[float, str]]:
        view, tables, names = self.view, self.view.tables, self.view.tables.names
        for j in self._tight():
            room = tables.room.copy()
            room[j] = round(room[j] * (1 + MORE_MEMORY))
            what = f"{MORE_MEMORY:.0%} more memory for layers on '{names[j]}'"
            yield self._saved(tables=replace(tables, room=room)), what
        hop = view.problem.costs.activation_hop
        for a, b in dict.fromkeys(pairwise(self.order)):
            if hop(names[a], names[b]).is_held_up:
                continue
            enter, busy = view.costs.enter.copy(), tables.busy.copy()
            enter[a, b] -= tables.hop[a, b] * (1 - 1 / FASTER)
            busy[a, b] /= FASTER
            costs, arrays = replace(view.costs, enter=enter), replace(tables, busy=busy)
            what = f"link {names[a]} -> {names[b]} twice as fast"
            yield self._saved(costs=costs, tables=arrays), what
        for j in dict.fromkeys(self.order):
            seconds, decode = view.costs.seconds.copy(), tables.decode.copy()
            seconds[:, :, j] /= FASTER
            decode[:, :, j] /= FASTER
            costs, arrays = replace(view.costs, seconds=seconds), replace(tables, decode=decode)
            yield self._saved(costs=costs, tables=arrays), f"'{names[j]}' twice as fast"
        if 0 < view.problem.budget < INFINITY:
            more = replace(view.problem, budget=view.problem.budget * (1 + MORE_LOSS))
            yield self._saved(problem=more), f"a budget larger by {MORE_LOSS:.0%}"

    def _saved(self, **changes: Any) -> float:
        """Seconds less with other parts of the view."""
        if self.trials <= 0:
            return 0.0
        self.trials -= 1
        return self.now - Orders(replace(self.view, **changes), self.order).relaxed
