"""Best first: walks over devices, and the orders that they make, until nothing promises more.

Logic-based Benders decomposition (Hooker and Ottosson 2003): `Walks` bounds all plans and names the
walk that promises most; `Orders` finds cuts and schemes along it; the walk is excluded. What plans
on the same devices take at least with whole layers is told `Walks`, too.
"""

from dataclasses import dataclass

from edgewise.planning.joint.incumbent import Incumbent
from edgewise.planning.joint.orders import CLOSE, Orders
from edgewise.planning.joint.walks import Walks
from edgewise.planning.tables import INFINITY

SET_NODES = 20  # nodes of the tree, for a bound on plans with whole layers on some devices
GLANCE, REACH = 30, 2  # nodes for a first look at an order, and how far cuts may then be off
NODES, MORE = 100, 4  # for the next look at all of it, and how many times as many each time
MOST_NODES = 100_000


@dataclass
class _Open:
    """An order that may still hold a better plan: none takes less than `bound` seconds."""

    bound: float
    orders: Orders
    nodes: int = NODES


class Search:
    """What was looked at, and what is still open."""

    def __init__(self, best: Incumbent) -> None:
        self.best = best
        self.walks, self.open = Walks(best.view), list[_Open]()
        self.sets = set[frozenset[int]]()
        # What plans take at least: along walks not looked at, and where no more can be said.
        self.rest, self.left = 0.0, INFINITY

    def run(self, target: float) -> float:
        """Always look at what promises most: the next walk, or an order once more. Returns a bound
        on every plan's score."""
        while not self.best.late:
            order = min(self.open, key=lambda x: x.bound, default=None)
            least = min(self.rest, order.bound if order else INFINITY)
            if least >= self.best.score * (1 - target) or least == INFINITY:
                break
            if order is None or self.rest <= order.bound:
                self._next_walk()
            else:
                self._look_again(order)
        return min(self.rest, self.left, *(x.bound for x in self.open))

    def _next_walk(self) -> None:
        """Open the order of the walk that promises most, and look at plans near its own."""
        best = self.best
        bound, walk = self.walks.best(NODES, best.seconds)
        self.rest = max(self.rest, bound)
        if walk is None:
            self.left, self.rest = min(self.left, self.rest), INFINITY
            return
        used = frozenset(walk.order)
        if used not in self.sets:
            self.sets.add(used)
            whole, _ = Walks(best.view.only(used), whole=True).best(SET_NODES, best.seconds)
            self.walks.raise_bound(used, whole)
            if whole >= best.score:
                return
        orders = best.orders(walk.order)
        if orders.relaxed < best.score:
            self.open.append(_Open(max(self.rest, orders.relaxed), orders))
            best.offer(orders.near(walk.layers, REACH, GLANCE, best.seconds, best.score))
        if not walk.only:  # the same moves in another order stay unseen
            self.left = min(self.left, self.rest)
        self.walks.exclude(walk)

    def _look_again(self, order: _Open) -> None:
        """Search all plans of an order, longer each time."""
        best = self.best
        bound, placed = order.orders.best(order.nodes, best.seconds, best.score)
        best.offer(placed)
        order.bound, order.nodes = max(order.bound, bound), order.nodes * MORE
        if order.bound >= best.score * (1 - CLOSE) or order.nodes > MOST_NODES:
            self.open.remove(order)
            self.left = min(self.left, order.bound)
