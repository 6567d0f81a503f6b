"""Each device at most once, and many prices at once: a bounded search over routes.

A label (layers done, slot, set of slots) carries its cost under several dual points. Every dual
point proves a lower bound of whatever solution the label can become, so a label goes as soon as any
of them reaches the cutoff:

    max over dual points d of  cost_d so far + completion bound_d - constant_d   >=   cutoff

A label also goes when another one with the same end and the same set is no worse under every dual
point. The bound returned is min(cutoff, min over complete routes of max over d): maximum inside the
minimum, which is stronger than any Lagrangian bound (minimum inside), because every route may
choose its own price of loss.
"""

import time as clock
from dataclasses import dataclass

import numpy as np

from edgewise.planning.joint.arrays import Bools, Floats, Ints
from edgewise.planning.joint.paths import Path, backward_from, forward_to
from edgewise.planning.joint.relax import Dual, Relaxation
from edgewise.planning.joint.stages import Lower

PEERS = 12  # how many predecessors in its group a label is compared with
MOST_ROUTES = 400


@dataclass
class Found:
    """Every route is among `routes`, which ascend by theirs, or
    costs at least `rest`. `complete` tells that nothing was cut short."""

    rest: float
    complete: bool
    labels: int
    routes: list[tuple[float, Path]]

    @property
    def bound(self) -> float:
        return min(self.rest, self.routes[0][0]) if self.routes else self.rest


@dataclass
class Labels:
    slot: Ints
    mask: Ints
    cost: Floats  # [D, n], pi of the visited included
    parent: Ints
    start: Ints

    def take(self, which: Ints) -> "Labels":
        return Labels(
            self.slot[which],
            self.mask[which],
            self.cost[:, which],
            self.parent[which],
            self.start[which],
        )

    @staticmethod
    def join(parts: list["Labels"]) -> "Labels":
        return Labels(
            np.concatenate([x.slot for x in parts]),
            np.concatenate([x.mask for x in parts]),
            np.concatenate([x.cost for x in parts], axis=1),
            np.concatenate([x.parent for x in parts]),
            np.concatenate([x.start for x in parts]),
        )


def elementary(
    relax: Relaxation,
    duals: list[Dual],
    lowers: list[Lower],
    cutoff: float,
    deadline: float,
    most: int = 300_000,
    keep: int = 60,
) -> Found:
    """Search both families of paths below the cutoff, until the deadline."""
    rest, routes, labels, complete = cutoff, [], 0, True
    for family in range(2):
        search = Search(relax, duals, lowers, family, cutoff, most)
        search.run(deadline)
        routes += search.routes
        labels += search.total
        complete &= bool(np.isinf(search.lost))
        rest = min(rest, search.lost)
    routes.sort(key=lambda x: x[0])
    if len(routes) > keep:
        rest = min(rest, routes[keep][0])
    return Found(rest, complete, labels, routes[:keep])


def bits(count: Ints) -> Ints:
    """One bit for each of the first slots with a single device; others are not remembered."""
    alone = count == 1
    number = np.cumsum(alone) - 1
    return np.where(alone & (number < 62), 1 << np.minimum(number, 61), 0)


class Search:
    """One family of paths."""

    def __init__(
        self,
        relax: Relaxation,
        duals: list[Dual],
        lowers: list[Lower],
        family: int,
        cutoff: float,
        most: int,
    ) -> None:
        ends = [relax.families(relax.visits(d))[family] for d in duals]
        self.constant = np.array([relax.constant(d, family) for d in duals])[:, None]
        self.table = np.stack([x.bound for x in lowers])  # [D, K, N+1, N+1]
        self.hop = relax.chain.hop
        self.start = np.stack([e.start for e in ends])  # [D, K], and so on
        self.enter = np.stack([e.enter for e in ends])
        self.end = np.stack([e.end for e in ends])
        self.after = np.stack(  # [D, N+1, K]
            [
                backward_from(t, self.hop, e.enter, e.end)
                for t, e in zip(self.table, ends, strict=True)
            ]
        )
        self.refund = np.array([d.visit for d in duals])  # [D, K]
        self.count = relax.slots.count
        self.cutoff, self.most = cutoff, most
        self.n1 = self.table.shape[2]
        self.bit = bits(self.count)
        alone = np.flatnonzero(relax.slots.source & ~relax.slots.shared)
        self.bit[alone] = self.bit[alone[0]]
        self.pool: list[list[Labels]] = [[] for _ in range(self.n1)]
        self.kept: list[Labels] = []
        self.total, self.lost = 0, np.inf
        self.routes: list[tuple[float, Path]] = []

    def run(self, deadline: float) -> None:
        """Boundary after boundary."""
        n = self.n1 - 1
        self._begin()
        for b in range(1, n + 1):
            if not self.pool[b]:
                continue
            if clock.perf_counter() > deadline:
                self._give_up(b)
                return
            labels = self._distinct(Labels.join(self.pool[b]), b)
            self.pool[b] = []
            base = self.total
            self.total += labels.slot.size
            self.kept.append(labels)
            if b == n:
                self._finish(labels, base)
            else:
                self._expand(labels, base, b)

    def _give_up(self, b: int) -> None:
        """What is left unseen bounds what was lost."""
        for boundary in range(b, self.n1):
            for x in self.pool[boundary]:
                self.lost = min(self.lost, float(self._value(x.cost, x.slot, boundary).min()))

    def _value(self, cost: Floats, slot: Ints, b: int) -> Floats:
        """Best proven bound of labels at boundary b."""
        bound: Floats = (cost + self.after[:, b, slot] - self.constant).max(0)
        return bound

    def _begin(self) -> None:
        cost = self.start[:, :, None] + self.table[:, :, 0, :]  # [D, K, N+1]
        for b in range(1, self.n1):
            slots = np.flatnonzero(np.isfinite(cost[:, :, b]).all(0))
            slots = slots[self._value(cost[:, slots, b], slots, b) < self.cutoff]
            if slots.size:
                self.pool[b].append(
                    Labels(
                        slots,
                        self.bit[slots],
                        cost[:, slots, b],
                        np.full(slots.size, -1),
                        np.zeros(slots.size, int),
                    )
                )

    def _distinct(self, x: Labels, b: int) -> Labels:
        """Drop dominated labels; where there are too many, the ones with the greatest bounds."""
        x = x.take(np.lexsort((x.cost[0], x.mask, x.slot)))
        good = np.ones(x.slot.size, bool)
        for shift in range(1, min(PEERS, x.slot.size - 1) + 1):
            worse = (x.slot[shift:] == x.slot[:-shift]) & (x.mask[shift:] == x.mask[:-shift])
            if not worse.any():
                break
            worse &= good[:-shift]
            for cost in x.cost:
                worse &= cost[shift:] >= cost[:-shift]
            good[shift:] &= ~worse
        x = x.take(np.flatnonzero(good))
        room = max((self.most - self.total) // max(self.n1 - b, 1) * 3, 100)
        if x.slot.size > room:
            bound = self._value(x.cost, x.slot, b)
            order = np.argpartition(bound, room)
            self.lost = min(self.lost, float(bound[order[room:]].min()))
            x = x.take(order[:room])
        return x

    def _expand(self, x: Labels, base: int, b: int) -> None:
        """Put every slot behind every label, for as many layers as the cutoff lets it take."""
        for k in range(len(self.bit)):
            ends = np.flatnonzero(np.isfinite(self.table[0, k, b]))
            fresh = np.flatnonzero((x.mask & self.bit[k]) == 0)
            if not ends.size or not fresh.size:
                continue
            reach = x.cost[:, fresh] + self.hop[x.slot[fresh], k] + self.enter[:, k, None]
            stage = self.table[:, k, b, ends]  # [D, E]
            total = stage + self.after[:, ends, k] - self.constant
            near = np.flatnonzero((reach + total.min(1)[:, None]).max(0) < self.cutoff)
            if not near.size:
                continue
            value = np.full((ends.size, near.size), -np.inf)
            for whole, so_far in zip(total, reach[:, near], strict=True):
                np.maximum(value, whole[:, None] + so_far, out=value)
            end, label = np.nonzero(value < self.cutoff)
            self._push(x, base, b, k, ends, (end, near[label]), (fresh, reach, stage))

    def _push(
        self,
        x: Labels,
        base: int,
        b: int,
        k: int,
        ends: Ints,
        chosen: tuple[Ints, Ints],
        data: tuple[Ints, Floats, Floats],
    ) -> None:
        """Labels of the chosen (end, label) pairs, ends ascending."""
        (end, label), (fresh, reach, stage) = chosen, data
        cost, source = reach[:, label] + stage[:, end], fresh[label]
        cuts = np.searchsorted(end, np.arange(ends.size + 1))
        for e in np.flatnonzero(np.diff(cuts)):
            part = slice(cuts[e], cuts[e + 1])
            from_ = source[part]
            self.pool[ends[e]].append(
                Labels(
                    np.full(from_.size, k),
                    x.mask[from_] | self.bit[k],
                    cost[:, part],
                    base + from_,
                    np.full(from_.size, b),
                )
            )

    def _finish(self, x: Labels, base: int) -> None:
        """Complete routes; what pi was charged in vain comes back."""
        whole = x.cost + self.end[:, x.slot] - self.constant
        fields = [
            np.concatenate([getattr(y, f) for y in self.kept]) for f in ("slot", "parent", "start")
        ]
        bound = whole.max(0)
        order = np.argsort(bound)[:MOST_ROUTES]
        for i in order:
            path = _trace(base + int(i), self.n1 - 1, *fields)
            seen = np.bincount([k for k, _, _ in path], minlength=len(self.count))
            back = self.refund @ (self.count - seen)
            value = float((whole[:, i] + back).max())
            if value < self.cutoff:
                self.routes.append((value, path))
        if len(bound) > MOST_ROUTES:
            self.lost = min(self.lost, float(np.sort(bound)[MOST_ROUTES]))


def _trace(i: int, end: int, slot: Ints, parent: Ints, start: Ints) -> Path:
    path: Path = []
    while i >= 0:
        path.append((int(slot[i]), int(start[i]), end))
        end, i = int(start[i]), int(parent[i])
    return path[::-1]


def survivors(relax: Relaxation, dual: Dual, lower: Lower, cutoff: float) -> Bools:
    """Stages [K, N+1, N+1] through which some relaxed path stays below the cutoff."""
    keep = np.zeros(lower.bound.shape, bool)
    for family, ends in enumerate(relax.families(relax.visits(dual))):
        after = backward_from(lower.bound, relax.chain.hop, ends.enter, ends.end)
        begin = forward_to(lower.bound, relax.chain.hop, ends.start, ends.enter)
        through = begin[:, :, None] + lower.bound + after.T[:, None, :]
        keep |= through < cutoff + relax.constant(dual, family)
    return keep
