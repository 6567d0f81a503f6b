"""Bounds on the plans of all orders at once, at a price l of loss: routes through states (layers
done, group), with a fee for every visit, so that no device is used more often than it may be.

    L(f) = min over routes of  first + moves + back + sum of (T[g,a,b] + f[g])
           - sum over g of visits[g] f[g]  -  l budget

bounds every plan whose devices come once (T: stages.py), the source twice where both ends are
pinned to it. Any fees f >= 0 give a bound (Lagrange); `ascend` raises it by subgradients (Polyak
1969). `labels.py` goes on from there.
"""

import numpy as np

from edgewise.planning.joint.stages import MOST, stage_costs
from edgewise.planning.joint.view import View
from edgewise.planning.tables import INFINITY, Floats, Ints

Route = tuple[tuple[int, int, int], ...]  # of stages: group, first layer, end
STUCK, SMALLER = 8, 0.6  # rounds without a better bound, after which steps get smaller
ABOVE = 1.02  # times the best bound so far, where the best may be
KEPT = 0.7  # of the last round's direction


class Routes:
    """Ways through all groups at one price of loss, or within one limit of a period."""

    def __init__(
        self, view: View, price: float, fees: Floats, limit: float = INFINITY, most: int = MOST
    ) -> None:
        self.view, self.fees, count = view, fees, len(view.groups)
        self.layers = view.tables.num_layers
        self.costs = stage_costs(view, price, limit, most)
        self.spent = price * view.problem.budget if view.problem.budget < INFINITY else 0.0
        first = np.array([group[0] for group in view.groups])
        moves = np.array([[view.move(g, h) for h in range(count)] for g in range(count)])
        seconds = np.where(moves[:, :, 1] <= limit, moves[:, :, 0], INFINITY)
        self.move, self.start, self.end = (
            x / view.unit for x in (seconds, view.costs.first[first], view.costs.back[first])
        )
        ends = view.tables.allowed[0] & view.tables.allowed[-1]
        twice = ends[first] & (view.tables.allowed[-1].sum() == 1)
        self.visits = np.array([len(group) for group in view.groups]) + twice
        self.required = view.tables.required[first]

    @property
    def offset(self) -> float:
        return self.spent + float(self.visits @ self.fees)

    def ascend(self, goal: float, rounds: int) -> float:
        """Find better fees; returns the bound that they give. The best is thought to be at least
        `goal`."""
        best, kept, step, stuck = -INFINITY, self.fees, 1.0, 0
        direction = np.zeros(len(self.fees))
        for _ in range(rounds):
            value, route = self._shortest()
            if value == INFINITY:
                return INFINITY
            if value > best:
                best, kept, stuck = value, self.fees, 0
            elif (stuck := stuck + 1) == STUCK:
                step, stuck, self.fees = step * SMALLER, 0, kept
                direction = 0 * direction
            direction = KEPT * direction - self.visits
            direction += np.bincount([g for g, _, _ in route], minlength=len(kept))
            slope = np.where((self.fees <= 0) & (direction < 0), 0.0, direction)
            if not slope.any():
                break
            far = max(goal, ABOVE * best) - value
            self.fees = np.maximum(self.fees + step * far * slope / float(slope @ slope), 0.0)
        self.fees = kept
        return best

    def _shortest(self) -> tuple[float, Route]:
        """The least L of a route, and one that has it."""
        table = self.costs + self.fees[:, None, None]
        begun, since, came = self._ahead(table)
        last = (begun + table[:, :, -1]).min(axis=1) + self.end
        g, b, stages = int(last.argmin()), self.layers, list[tuple[int, int, int]]()
        while b and last.min() < INFINITY:
            a = int(since[b, g])
            stages.append((g, a, b))
            g, b = int(came[a, g]), a
        return float(last.min()) - self.offset, tuple(stages[::-1])

    def _ahead(self, table: Floats) -> tuple[Floats, Ints, Ints]:
        """[g, a]: the least cost of what is before a stage that begins at layer a on g; [b, g]:
        where the best stage that ends at b on g begins, and from where the best way to g comes."""
        by_end, count = np.ascontiguousarray(table.transpose(2, 0, 1)), len(table)
        begun, every = np.full((count, self.layers + 1), INFINITY), np.arange(count)
        begun[:, 0], enter = self.start, np.ascontiguousarray(self.move.T)
        since, came = np.zeros((2, self.layers + 1, count), dtype=np.int64)
        for b in range(1, self.layers + 1):
            through = begun[:, :b] + by_end[b, :, :b]
            since[b] = through.argmin(axis=1)
            onward = enter + through[every, since[b]]
            came[b] = onward.argmin(axis=1)
            begun[:, b] = onward[every, came[b]]
        return begun, since, came

    def behind(self, table: Floats) -> tuple[Floats, Floats]:
        """[g, b]: the least cost of what follows a stage that ends at b on g; and of all that is
        still to come where one begins there."""
        by_start, count = np.ascontiguousarray(table.transpose(1, 0, 2)), len(table)
        after, begun = np.full((2, count, self.layers + 1), INFINITY)
        after[:, -1] = self.end
        for a in range(self.layers - 1, -1, -1):
            begun[:, a] = (by_start[a, :, a + 1 :] + after[:, a + 1 :]).min(axis=1)
            after[:, a] = (self.move + begun[:, a]).min(axis=1)
        return after, begun
