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

from dataclasses import dataclass

import numpy as np

from edgewise.planning.joint.arrays import Bools, Floats, Ints
from edgewise.planning.joint.paths import Path, backward_from, forward_to
from edgewise.planning.joint.relax import Dual, Relaxation
from edgewise.planning.joint.stages import Lower

PEERS = 12  # how many predecessors in its group a label is compared with


@dataclass
class Found:
    """`bound` is proven; `complete` tells that nothing was cut short; routes ascend by bound."""

    bound: float
    complete: bool
    labels: int
    routes: list[tuple[float, Path]]


@dataclass
class Labels:
    slot: Ints
    mask: Ints
    cost: Floats  # [n, D], pi of the visited included
    parent: Ints
    start: Ints

    def take(self, which: Ints) -> "Labels":
        return Labels(
            self.slot[which],
            self.mask[which],
            self.cost[which],
            self.parent[which],
            self.start[which],
        )

    @staticmethod
    def join(parts: list["Labels"]) -> "Labels":
        return Labels(
            *(
                np.concatenate([getattr(x, f) for x in parts])
                for f in ("slot", "mask", "cost", "parent", "start")
            )
        )


def elementary(
    relax: Relaxation,
    duals: list[Dual],
    lowers: list[Lower],
    cutoff: float,
    most: int = 300_000,
    keep: int = 60,
) -> Found:
    """Search both families of paths below the cutoff."""
    bound, routes, labels, complete = cutoff, [], 0, True
    for family in range(2):
        search = Search(relax, duals, lowers, family, cutoff, most)
        search.run()
        routes += search.routes
        labels += search.total
        complete &= bool(np.isinf(search.lost))
        bound = min(bound, search.lost)
    routes.sort(key=lambda x: x[0])
    if routes:
        bound = min(bound, routes[0][0])
    return Found(bound, complete, labels, routes[:keep])


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
        self.ends = [relax.families(relax.visits(d))[family] for d in duals]
        self.constant = np.array([relax.constant(d, family) for d in duals])
        self.table = [x.bound for x in lowers]
        self.hop = relax.chain.hop
        self.after = [
            backward_from(t, self.hop, e.enter, e.end)
            for t, e in zip(self.table, self.ends, strict=True)
        ]
        self.refund = np.array([d.visit for d in duals])  # [D, K]
        self.count = relax.slots.count
        self.cutoff, self.most = cutoff, most
        self.n1 = self.table[0].shape[1]
        self.bit = bits(self.count)
        alone = np.flatnonzero(relax.slots.source & ~relax.slots.shared)
        self.bit[alone] = self.bit[alone[0]]
        self.pool: list[list[Labels]] = [[] for _ in range(self.n1)]
        self.kept: list[Labels] = []
        self.total, self.lost = 0, np.inf
        self.routes: list[tuple[float, Path]] = []

    def run(self) -> None:
        """Boundary after boundary."""
        n = self.n1 - 1
        self._begin()
        for b in range(1, n + 1):
            if not self.pool[b]:
                continue
            labels = self._distinct(Labels.join(self.pool[b]), b)
            self.pool[b] = []
            base = self.total
            self.total += labels.slot.size
            self.kept.append(labels)
            if b == n:
                self._finish(labels, base)
            else:
                self._expand(labels, base, b)

    def _value(self, cost: Floats, slot: Ints, b: int) -> Floats:
        """Best proven bound of labels at boundary b."""
        rest = np.stack([a[b, slot] for a in self.after], 1)
        bound: Floats = (cost + rest - self.constant).max(1)
        return bound

    def _begin(self) -> None:
        cost = np.stack(
            [e.start[:, None] + t[:, 0, :] for e, t in zip(self.ends, self.table, strict=True)], 2
        )
        for b in range(1, self.n1):
            slots = np.flatnonzero(np.isfinite(cost[:, b]).all(1))
            slots = slots[self._value(cost[slots, b], slots, b) < self.cutoff]
            if slots.size:
                self.pool[b].append(
                    Labels(
                        slots,
                        self.bit[slots],
                        cost[slots, b],
                        np.full(slots.size, -1),
                        np.zeros(slots.size, int),
                    )
                )

    def _distinct(self, x: Labels, b: int) -> Labels:
        """Drop dominated labels; where there are too many, the ones with the greatest bounds."""
        x = x.take(np.lexsort((x.cost[:, 0], x.mask, x.slot)))
        good = np.ones(x.slot.size, bool)
        for shift in range(1, min(PEERS, x.slot.size - 1) + 1):
            same = (x.slot[shift:] == x.slot[:-shift]) & (x.mask[shift:] == x.mask[:-shift])
            if not same.any():
                break
            at = np.flatnonzero(same)
            worse = (x.cost[at + shift] >= x.cost[at]).all(1) & good[at]
            good[at[worse] + shift] = False
        x = x.take(np.flatnonzero(good))
        room = max((self.most - self.total) // max(self.n1 - b, 1) * 3, 100)
        if x.slot.size > room:
            bound = self._value(x.cost, x.slot, b)
            order = np.argpartition(bound, room)
            self.lost = min(self.lost, float(bound[order[room:]].min()))
            x = x.take(order[:room])
        return x

    def _expand(self, x: Labels, base: int, b: int) -> None:
        for k in range(len(self.bit)):
            ends = np.flatnonzero(np.isfinite(self.table[0][k, b]))
            if not ends.size:
                continue
            reach = (
                x.cost + self.hop[x.slot, k][:, None] + np.array([e.enter[k] for e in self.ends])
            )
            stage = np.stack([t[k, b, ends] for t in self.table], 1)  # [E, D]
            total = stage + np.stack([a[ends, k] for a in self.after], 1) - self.constant
            least = total.min(0)
            free = (x.mask & self.bit[k]) == 0
            who = np.flatnonzero(free & ((reach + least).max(1) < self.cutoff))
            if not who.size:
                continue
            value = (reach[who][:, None, :] + total[None]).max(2)
            label, end = np.nonzero(value < self.cutoff)
            for e in np.unique(end):
                chosen = label[end == e]
                src = who[chosen]
                self.pool[ends[e]].append(
                    Labels(
                        np.full(src.size, k),
                        x.mask[src] | self.bit[k],
                        reach[src] + stage[e],
                        base + src,
                        np.full(src.size, b),
                    )
                )

    def _finish(self, x: Labels, base: int) -> None:
        """Complete routes; what pi was charged in vain comes back."""
        whole = x.cost + np.stack([e.end[x.slot] for e in self.ends], 1) - self.constant
        fields = [
            np.concatenate([getattr(y, f) for y in self.kept]) for f in ("slot", "parent", "start")
        ]
        order = np.argsort(whole.max(1))[:400]
        for i in order:
            path = _trace(base + int(i), self.n1 - 1, *fields)
            seen = np.bincount([k for k, _, _ in path], minlength=len(self.count))
            back = self.refund @ (self.count - seen)
            value = float((whole[i] + back).max())
            if value < self.cutoff:
                self.routes.append((value, path))
        if len(whole) > 400:
            self.lost = min(self.lost, float(np.sort(whole.max(1))[400]))


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
