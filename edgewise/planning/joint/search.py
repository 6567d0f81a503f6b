"""Best first: walks over devices, and the orders that they make, until nothing promises more.

Logic-based Benders decomposition (Hooker and Ottosson 2003): `Walks` bounds all plans and names the
walk that promises most; `Orders` finds cuts and schemes along it; the walk is excluded. Where the
first walk leaves more to prove, plans are made of routes (local.py), too: these know which layers
lie together, and are quick to find what walks may come to late.
"""

from dataclasses import dataclass
from itertools import count

from edgewise.planning.joint.incumbent import Incumbent
from edgewise.planning.joint.local import local_search
from edgewise.planning.joint.orders import CLOSE, Orders
from edgewise.planning.joint.walks import Walks
from edgewise.planning.tables import INFINITY

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
        # What plans take at least: along walks not looked at, and where no more can be said.
        self.rest, self.left = 0.0, INFINITY

    def run(self, target: float) -> float:
        """Look at the first walk, and at routes; then always at what promises most: the next walk,
        or an order once more. Returns a bound on every plan's score."""
        for step in count():
            order = min(self.open, key=lambda x: x.bound, default=None)
            least = min(self.rest, order.bound if order else INFINITY)
            done = least >= self.best.score * (1 - target) or least == INFINITY
            if done or self.best.late:
                break
            if step == 1:
                local_search(self.best, target, brief=True)
            elif order is None or self.rest <= order.bound:
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
