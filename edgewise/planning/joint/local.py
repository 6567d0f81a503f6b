"""Where programs are large: local search over orders at prices (prices.py), and small programs near
the cuts that these give."""

from collections import Counter
from collections.abc import Iterator

import numpy as np

from edgewise.planning.joint.incumbent import Incumbent
from edgewise.planning.joint.orders import CLOSE, Orders
from edgewise.planning.joint.prices import Order, Prices, Valued
from edgewise.planning.joint.view import View
from edgewise.planning.joint.walks import Walks
from edgewise.planning.tables import INFINITY

ROUNDS = 3  # of prices and orders in turn
PRICES, NEARER = 5, 2  # of loss that are tried at a time, and how often, ever nearer to the best
CAREFUL = (1.0, 1.15, 1.3, 1.5, 1.8, 2.3, 3.0, 5.0)  # times the best price of loss
LIMIT_STEP, LIMITS = 1.01, 60  # by which a limit rises that nothing keeps to, and how often
ENOUGH = 3  # limits that plans were found for
FIRST = 0.4  # of the time, after which no other order is looked at
NODES, REACHES = 30, (1, 2, 3)  # nodes of the tree; layers from a cut that may lie on either side


def local_search(best: Incumbent) -> float:
    """Offer plans to `best`; returns a bound on every plan's score."""
    bound, used = Walks(best.view).relaxed(best.seconds)
    if bound == INFINITY:
        return bound
    end = best.seconds * (1 - FIRST)
    for valued in _promising(best.view, _nearest(best.view, used), bound):
        if valued.value < INFINITY:
            orders = best.orders(valued.order)
            best.offer(orders.near(valued.layers, 0, NODES, best.seconds, best.score))
        if best.seconds < end:
            break
    _move_cuts(best)
    return bound


def _move_cuts(best: Incumbent) -> None:
    """Cuts of the best plan a little elsewhere, farther where that finds nothing."""
    reaches = list(REACHES)
    while best.plan is not None and reaches and not best.late:
        before, stages = best.score, best.plan.plan.stages
        order = tuple(best.view.tables.names.index(stage.device) for stage in stages)
        layers = [stage.end - stage.start for stage in stages]
        orders = Orders(best.view, order)
        best.offer(orders.near(layers, reaches[0], NODES, best.seconds, best.score))
        if best.score > before * (1 - CLOSE):
            reaches.pop(0)


def _nearest(view: View, used: list[int]) -> Order:
    """Some groups, always the nearest one next, from where the first layer may lie."""
    allowed = [g for g, group in enumerate(view.groups) if view.tables.allowed[0, group[0]]]
    first = min(allowed, key=lambda g: float(view.costs.first[view.groups[g][0]]))
    must = [g for g, group in enumerate(view.groups) if view.tables.required[group[0]]]
    wanted = Counter(used) | Counter(dict.fromkeys([first, *must], 1))
    order, left = [first], sorted((wanted - Counter([first])).elements())
    while left:
        order.append(min(left, key=lambda g: view.move(order[-1], g)[0]))
        left.remove(order[-1])
    return tuple(order)


def _promising(view: View, start: Order, bound: float) -> Iterator[Valued]:
    """Orders that local search leads to from `start`, where plans take at least `bound` seconds."""
    if view.lanes > 1:
        yield from _within_limits(view, start, bound / view.lanes)
        return
    price = 0.0
    for _ in range(ROUNDS):
        price = _best_price(view, start, price)
        start = Prices(view, price).improved(start).order
    for more in CAREFUL:  # where the bound is highest, plans of whole layers may lose too much
        best = Prices(view, price * more).improved(start)
        start = best.order
        yield best


def _within_limits(view: View, start: Order, limit: float) -> Iterator[Valued]:
    """Orders for rising limits on what is busiest."""
    found = 0
    for step in range(LIMITS):
        best = Prices(view, 1.0, limit * LIMIT_STEP**step).improved(start)
        start = best.order
        if best.value <= 0:
            found += 1
            yield best
        if found == ENOUGH:
            return


def _best_price(view: View, order: Order, known: float) -> float:
    """The price of loss at which an order's bound is highest: it is concave. `known` is one that is
    not far from it, or 0."""
    if view.problem.budget == INFINITY:
        return 0.0
    middle = known or 4.0 / max(view.problem.budget, 1e-300)
    spread = 2.0 if known else 8.0
    for _ in range(NEARER):
        tried = middle * spread ** np.linspace(-1, 1, PRICES)
        values = [Prices(view, price).value(order).value for price in tried]
        middle = float(tried[int(np.argmax(np.where(np.isfinite(values), values, -INFINITY)))])
        spread = spread ** (2 / (PRICES - 1))
    return middle
