"""Orders valued quickly, where there are many or their programs are large: at a price l of loss,
cuts by dynamic programming.

    T[g,a,b] = max over m, t >= 0 of  sum over i in [a, b) of
                   min over s of (w seconds[s,i,g] + l loss[s,i] + m size[s,i] + t decode[s,i,g])
                   - m room[g] - t (limit - step[g])

bounds what layers a to b - 1 cost on a device of g that they fit, and that is busy for no longer
than `limit` (Lagrange's multipliers m and t; a grid of them, as any give a bound). Then

    value(order) = w (first + moves + back) + min over cuts of sum T[order_k, cut_k, cut_k+1]
                   - l budget

bounds every plan of the order from below. For the round trip w = 1 and the value is in units. For a
period w = 0 and l = 1: the value is the loss beyond the budget at the least, and if that is
positive no plan of the order keeps to `limit`.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise, product

import numpy as np

from edgewise.planning.joint.view import View
from edgewise.planning.tables import INFINITY, Floats

Order = tuple[int, ...]  # of groups
GRID = 20  # multipliers of memory, with no limit of time
COARSE = 8  # of memory and of time, with one


@dataclass(frozen=True)
class Valued:
    """A bound on an order's plans, and the cuts that it is taken at."""

    value: float
    order: Order
    cuts: tuple[int, ...]

    @property
    def layers(self) -> tuple[int, ...]:
        return tuple(b - a for a, b in pairwise(self.cuts))


def _sums(terms: Floats) -> Floats:
    """[g, b]: of layers 0 to b - 1."""
    return np.vstack((np.zeros(terms.shape[1]), terms.cumsum(axis=0))).T


class Prices:
    """Values of orders at one price of loss, and for periods at one limit."""

    def __init__(self, view: View, price: float, limit: float = INFINITY) -> None:
        self.view, self.price, self.limit = view, price, limit
        self.weight = 1.0 if limit == INFINITY else 0.0
        self.first = np.array([group[0] for group in view.groups])
        self.must = {g for g, j in enumerate(self.first) if view.tables.required[j]}
        self.table, self.ways = self._table(), self._ways()

    def _table(self) -> Floats:
        view, first, tables = self.view, self.first, self.view.tables
        usable = view.usable[:, :, first]
        cost = self.weight * view.costs.seconds[:, :, first] / view.unit
        cost = np.where(usable, cost + self.price * view.scored[:, :, None], INFINITY)
        nowhere = ~usable.any(axis=0)  # layers that no scheme lets lie there
        decode = np.where(usable, tables.decode[:, :, first], 0.0) / view.unit
        layers, groups, shared = cost.shape[1], len(first), float(tables.shared.max())
        room = np.maximum(tables.room[first].astype(float), 1.0)
        spare = (self.limit - tables.step[first]) / view.unit  # infinite without a limit
        table = np.full((groups, layers + 1, layers + 1), -INFINITY)
        for m, t in self._multipliers(cost, decode, room):
            terms = cost + m * (tables.size[:, :, None] / room) + t * decode
            sums = _sums(np.where(nowhere, 0.0, terms.min(axis=0)))
            off = m + (t * spare if self.limit < INFINITY else 0.0)
            bound = sums[:, None, :] - sums[:, :, None] - off[:, None, None]
            bound[:, 0, -1] -= m * shared / room  # a tied model takes that much less on one device
            np.maximum(table, bound, out=table)
        smallest = np.where(usable, tables.size[:, :, None], INFINITY).min(axis=0)
        held = _sums(np.where(nowhere, 0.0, smallest))
        lost = _sums(nowhere.astype(float))
        bad = held[:, None, :] - held[:, :, None] > room[:, None, None] + shared
        bad |= np.tri(layers + 1, dtype=bool) | (lost[:, None, :] > lost[:, :, None])
        return np.where(bad, INFINITY, table)

    def _multipliers(
        self, cost: Floats, decode: Floats, room: Floats
    ) -> Iterator[tuple[Floats, Floats]]:
        """Pairs of multipliers for each group: of its memory, all of it together, and of time."""
        finite = np.where(np.isfinite(cost), cost, 0.0)
        whole = np.maximum(finite.max(axis=0).sum(axis=0), 1e-12)
        none = np.zeros(len(room))
        if self.limit == INFINITY:
            for share in (0.0, *np.geomspace(3e-3, 3.0, GRID)):
                yield whole * share, none
            return
        busy = np.maximum(decode.max(axis=0).sum(axis=0), 1e-12)
        for by_bytes in (0.0, *np.geomspace(1e-2, 3.0, COARSE)):
            for by_time in (0.0, *np.geomspace(1e-2, 30.0, COARSE)):
                yield whole * by_bytes, whole / busy * by_time

    def value(self, order: Order) -> Valued:
        """A bound on an order's plans, infinite where there is none, and the cuts of it."""
        value, came = self._ahead(order), []
        for before, g in zip(value, order, strict=False):
            came.append((before[:, None] + self.table[g]).argmin(axis=0))
        cuts = [self.table.shape[1] - 1]
        for at in reversed(came):
            cuts.append(int(at[cuts[-1]]))
        whole = float(value[-1][-1]) + self._way(order[-1], None) - self._spent
        return Valued(whole, order, tuple(cuts[::-1]))

    def improved(self, start: Order) -> Valued:
        """The best order that dropping, adding, replacing and swapping devices leads to."""
        best, order = self.value(start).value, start
        while True:
            least, near = min(self._changes(order), default=(INFINITY, order))
            better = best == INFINITY or least - self._spent < best - 1e-9 * abs(best)
            if least == INFINITY or not better:
                return self.value(order)
            best, order = least - self._spent, near

    @property
    def _spent(self) -> float:
        budget = self.view.problem.budget
        return self.price * budget if budget < INFINITY else 0.0

    def _way(self, g: int | None, h: int | None) -> float:
        """What it costs to go on from one group at another, to come in (g is None) or to go out."""
        return float(self.ways[-1 if g is None else g, -1 if h is None else h])

    def _ways(self) -> Floats:
        """[g, h], the last row coming in and the last column going out; infinite where no link
        leads, or one that is occupied for longer than the limit."""
        view, count = self.view, len(self.first)
        ways = np.full((count + 1, count + 1), INFINITY)
        ways[-1, :-1], ways[:-1, -1] = view.costs.first[self.first], view.costs.back[self.first]
        for g, h in product(range(count), repeat=2):
            seconds, busy = view.move(g, h)
            ways[g, h] = seconds if busy <= self.limit else INFINITY
        return np.where(
            np.isfinite(ways), self.weight * np.minimum(ways, 1e300) / view.unit, INFINITY
        )

    def _ahead(self, order: Order) -> list[Floats]:
        """[k][b]: what layers 0 to b - 1 cost in the first k stages, the way there included."""
        start = np.full(self.table.shape[1], INFINITY)
        start[0] = 0.0
        found = [start]
        for before, g in zip((None, *order), order, strict=False):
            cost = (found[-1][:, None] + self.table[g]).min(axis=0)
            found.append(cost + self._way(before, g))
        return found

    def _behind(self, order: Order) -> list[Floats]:
        """[k][a]: what layers from a on cost in the stages from k on, the way out included."""
        end = np.full(self.table.shape[1], INFINITY)
        end[-1] = 0.0
        found = [end]
        for g, after in reversed(list(zip(order, (*order[1:], None), strict=True))):
            cost = (self.table[g] + found[-1][None, :]).min(axis=1)
            found.append(cost + self._way(g, after))
        return found[::-1]

    def _changes(self, order: Order) -> Iterator[tuple[float, Order]]:
        """Orders with one device less, one more, another in its place, or two neighbours swapped,
        and what they cost."""
        ahead, behind, count = self._ahead(order), self._behind(order), len(order)

        def way(before: int, after: int, *between: int) -> float:
            """The ways that are new where stages `before` and `after` stay."""
            start = order[before] if before >= 0 else None
            end = order[after] if after < count else None
            return sum(self._way(g, h) for g, h in pairwise((start, *between, end)))

        for k in range(count):
            if count > 1 and self._lawful((*order[:k], *order[k + 1 :])):
                cost = float((ahead[k] + behind[k + 1]).min()) + way(k - 1, k + 1)
                yield cost, (*order[:k], *order[k + 1 :])
            for g in range(len(self.first)):
                through = (ahead[k][:, None] + self.table[g]).min(axis=0)
                for after in (k, k + 1):  # before stage k, or in its place
                    changed = (*order[:k], g, *order[after:])
                    if self._lawful(changed):
                        cost = float((through + behind[after]).min()) + way(k - 1, after, g)
                        yield cost, changed
            if k + 1 < count:
                a, b = order[k], order[k + 1]
                through = (ahead[k][:, None] + self.table[b]).min(axis=0)
                through = (through[:, None] + self.table[a]).min(axis=0)
                cost = float((through + behind[k + 2]).min()) + way(k - 1, k + 2, b, a)
                yield cost, (*order[:k], b, a, *order[k + 2 :])
        for g in range(len(self.first)):
            if self._lawful((*order, g)):
                through = (ahead[count][:, None] + self.table[g]).min(axis=0)
                yield float(through[-1]) + way(count - 1, count, g), (*order, g)

    def _lawful(self, order: Order) -> bool:
        """Whether no device comes twice, as each visit would count with all of its memory, but for
        the first one where the last layer is pinned to it; and the required ones come."""
        pinned = self.view.tables.allowed[-1].sum() == 1
        inner = order[:-1] if pinned and len(order) > 1 and order[-1] == order[0] else order
        many = all(inner.count(g) <= len(self.view.groups[g]) for g in set(inner))
        return many and self.must <= set(inner) and len(order) < self.table.shape[1]
