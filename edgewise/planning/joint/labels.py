"""All routes below a cut, one layer after the other: labels (layers done, group, devices used), as
in vehicle routing (Feillet et al. 2004). A label whose cost and least remaining cost (routes.py)
reach the cut is left out; of two that differ in cost alone, the dearer one.
"""

from dataclasses import dataclass

import numpy as np

from edgewise.planning.joint.routes import Route, Routes
from edgewise.planning.tables import Bools, Floats, Ints

MOST_BITS = 62
FEW = 20  # routes that are named


@dataclass(frozen=True)
class Labels:
    """Stages about to begin at one layer: the devices used, coded; the group; the cost, fees
    included; and the label before it, by its layer and its number there, -1 for none."""

    used: Ints
    group: Ints
    cost: Floats
    layer: Ints
    number: Ints

    def take(self, which: Ints | Bools) -> "Labels":
        return Labels(*(column[which] for column in vars(self).values()))

    @staticmethod
    def joined(parts: list["Labels"]) -> "Labels":
        columns = zip(*(vars(x).values() for x in parts), strict=True)
        return Labels(*map(np.concatenate, columns))

    def cheapest(self) -> "Labels":
        """Of labels that differ in cost alone, the cheapest."""
        ordered = self.take(np.lexsort((self.cost, self.group, self.used)))
        new = np.diff(ordered.used, prepend=-1) != 0
        new |= np.diff(ordered.group, prepend=-1) != 0
        return ordered.take(new)


class RouteSearch:
    """Routes below `cut`; at each layer the `width` labels that promise most are gone on with, and
    `complete` tells whether that were all of them."""

    def __init__(self, routes: Routes, cut: float, width: int) -> None:
        self.routes, self.cut, self.width = routes, cut + routes.offset, width
        self.table = routes.costs + routes.fees[:, None, None]
        self.after, self.begun = routes.behind(self.table)
        self.waiting: list[list[Labels]] = [[] for _ in range(routes.layers)]
        self.kept = list[Labels]()
        self.ends: list[tuple[float, int, int]] = []  # value, and its last stage's label
        self.complete = True
        # `used` counts the visits of every group, those with few first, as far as there is room.
        self.counted = np.zeros(len(routes.fees), dtype=bool)
        order, bits = np.argsort(routes.visits, kind="stable"), np.log2(routes.visits + 1)
        self.counted[order[np.cumsum(bits[order]) < MOST_BITS]] = True
        self.radix = np.where(self.counted, routes.visits + 1, 1)
        self.place = np.concatenate(([1], np.cumprod(self.radix)[:-1]))

    def run(self) -> list[tuple[float, Route]]:
        """Bounds on the plans of complete routes, ascending, the first few."""
        groups, none = np.arange(len(self.routes.fees)), np.full(len(self.routes.fees), -1)
        self.waiting[0].append(Labels(0 * groups, groups, self.routes.start, none, none))
        nothing = self.waiting[0][0].take(groups[:0])
        for a, parts in enumerate(self.waiting):
            labels = Labels.joined([nothing, *parts]).cheapest()
            if len(labels.cost) > self.width:
                self.complete = False
                promise = labels.cost + self.begun[labels.group, a]
                labels = labels.take(np.argpartition(promise, self.width)[: self.width])
            parts.clear()
            self.kept.append(labels)
            self._extend(a, labels)
        return [(value, self._route(a, number)) for value, a, number in sorted(self.ends)[:FEW]]

    def _digits(self, used: Ints) -> Ints:
        return used[:, None] // self.place % self.radix

    def _extend(self, a: int, labels: Labels) -> None:
        """Stages from layer a on, to any end, and from there on to the next ones."""
        cost = labels.cost[:, None] + self.table[labels.group, a, a + 1 :]
        number, length = np.nonzero(cost + self.after[labels.group, a + 1 :] < self.cut)
        group, end = labels.group[number], a + 1 + length
        used = labels.used[number] + (self.counted * self.place)[group]
        done = Labels(used, group, cost[number, length], 0 * number + a, number)
        last = end == self.routes.layers
        self._finish(done.take(last))
        self._move(done.take(~last), end[~last])

    def _finish(self, done: Labels) -> None:
        """Of a complete route's devices no fee is asked, of the others none is given."""
        routes, digits = self.routes, self._digits(done.used)
        paid = np.where(self.counted, digits, routes.visits) @ routes.fees
        value = done.cost + routes.end[done.group] - paid - routes.spent
        whole = ~(routes.required & self.counted & (digits == 0)).any(axis=1)
        for i in np.flatnonzero(whole):
            self.ends.append((float(value[i]), int(done.layer[i]), int(done.number[i])))

    def _move(self, done: Labels, end: Ints) -> None:
        onward = done.cost[:, None] + self.routes.move[done.group]
        low = onward + self.begun[:, end].T < self.cut
        low &= (self._digits(done.used) < self.routes.visits) | ~self.counted
        i, group = np.nonzero(low)
        moved = Labels(done.used[i], group, onward[i, group], done.layer[i], done.number[i])
        end = end[i]
        for b in np.unique(end):
            self.waiting[b].append(moved.take(end == b))

    def _route(self, a: int, number: int) -> Route:
        stages, end = list[tuple[int, int, int]](), self.routes.layers
        while a >= 0:
            labels = self.kept[a]
            stages.append((int(labels.group[number]), a, end))
            end, a, number = a, int(labels.layer[number]), int(labels.number[number])
        return tuple(stages[::-1])
