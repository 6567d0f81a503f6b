"""Best first: walks over devices, and the orders that they make, until nothing promises more.

Logic-based Benders decomposition (Hooker and Ottosson 2003): `Walks` bounds all plans and names the
walk that promises most; `Orders` finds cuts and schemes along it; the walk is excluded. Where the
first walk leaves more to prove, two ways look at once for what walks may come to late: plans made
of routes (local.py), and a local search over the orders near the best one's.
"""

from dataclasses import dataclass
from itertools import combinations, count

from edgewise.planning.joint.incumbent import Incumbent
from edgewise.planning.joint.local import local_search
from edgewise.planning.joint.orders import CLOSE, Orders
from edgewise.planning.joint.walks import Walks
from edgewise.planning.tables import INFINITY

GLANCE, REACH = 30, 1  # nodes for a first look at an order, and how far cuts may then be off
NODES, MORE = 100, 4  # for the next look at all of it, and how many times as many each time
MOST_NODES = 100_000
MOST_NEAR = 12  # orders near the best one's that are looked at

Groups = tuple[int, ...]  # of equal devices, in the order of visits


@dataclass
class _Open:
    """An order that may still hold a better plan: none takes less than `bound` seconds."""

    bound: float
    orders: Orders
    nodes: int = NODES


class Search:
    """What was looked at, and what is still open."""

    def __init__(self, best: Incumbent) -> None:
        self.best, self.walks, self.open = best, Walks(best.view), list[_Open]()
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
                self._improve(target)
            elif order is None or self.rest <= order.bound:
                self._next_walk()
            else:
                self._look_again(order)
        return min(self.rest, self.left, *(x.bound for x in self.open))

    def _next_walk(self) -> None:
        """Open the order of the walk that promises most."""
        best = self.best
        bound, walk = self.walks.best(NODES, best.seconds)
        self.rest = max(self.rest, bound)
        if walk is None:
            self.left, self.rest = min(self.left, self.rest), INFINITY
            return
        orders = best.orders(walk.order)
        if orders.relaxed < best.score:
            self.open.append(_Open(max(self.rest, orders.relaxed), orders))
            self._glance(orders)
        if not walk.only:  # the same moves in another order stay unseen
            self.left = min(self.left, self.rest)
        self.walks.exclude(walk)

    def _improve(self, target: float) -> None:
        """Look at orders that are a move away from the best plan's, or from those looked at; always
        at the one whose relaxation promises most."""
        best, order = self.best, self.best.order
        near, looked = dict[Groups, Orders](), set[Groups]()
        while order and len(looked) < MOST_NEAR and not best.late:
            new = neighbours(order, len(best.view.groups)) - near.keys()
            near |= {x: best.orders(x) for x in sorted(new)}
            left = [x for x in near if x not in looked]
            order = min(left, key=lambda x: near[x].relaxed, default=())
            if not order or near[order].relaxed >= best.score * (1 - target):
                return
            looked.add(order)
            self._glance(near[order])

    def _glance(self, orders: Orders) -> None:
        """Look at an order's plans with cuts near those of its relaxation."""
        best, layers = self.best, orders.relaxation[1]
        best.offer(orders.near(layers, REACH, GLANCE, best.seconds, best.score))

    def _look_again(self, order: _Open) -> None:
        """Search all plans of an order, longer each time."""
        best = self.best
        bound, placed = order.orders.best(order.nodes, best.seconds, best.score)
        best.offer(placed)
        order.bound, order.nodes = max(order.bound, bound), order.nodes * MORE
        if order.bound >= best.score * (1 - CLOSE) or order.nodes > MOST_NODES:
            self.open.remove(order)
            self.left = min(self.left, order.bound)


def neighbours(order: Groups, count: int) -> set[Groups]:
    """Orders of groups below `count` with one more, left out, in another's place, or two changed
    about, and the order itself, that come back no more often than it does."""
    some = [(), *((g,) for g in range(count))]
    cuts = [(a, b) for a in range(len(order) + 1) for b in (a, a + 1)]
    near = {order[:a] + group + order[b:] for a, b in cuts for group in some}
    for a, b in combinations(range(len(order)), 2):
        near.add((*order[:a], order[b], *order[a + 1 : b], order[a], *order[b + 1 :]))
    returns = len(order) - len(set(order))
    return {x for x in near if x and len(x) - len(set(x)) <= returns}
