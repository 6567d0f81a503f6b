"""Where programs are large: the routes that promise most (routes.py, labels.py), and small programs
near the cuts that these give.

For the round trip the bound L(l) on plans of every order is raised over prices l of loss, in which
it is concave. For a period limits are tried: a limit at which nothing keeps to the budget for loss
bounds the period, and routes at the next ones give plans.
"""

from collections.abc import Iterator

import numpy as np

from edgewise.planning.joint.incumbent import Incumbent
from edgewise.planning.joint.labels import Search
from edgewise.planning.joint.orders import Orders
from edgewise.planning.joint.routes import Route, Routes
from edgewise.planning.joint.view import View
from edgewise.planning.joint.walks import Walks
from edgewise.planning.tables import INFINITY, Floats
from edgewise.plans import Plan

PRICES, FEW_PRICES, GOLDEN = (
    9,
    6,
    0.618,
)  # prices of loss that are tried, and what is left of their range each time
LEAST_PRICE, MOST_PRICE = 0.3, 60.0  # units for all of the budget
NEAR_PRICES = (1.0, 1.06, 0.94)  # times the best price, at which all routes are looked at
ROUNDS, MORE_ROUNDS = 40, 200  # of fees
ABOVE = 1.05  # times the bound of walks.py, where the best may be
CUTS = np.geomspace(1.005, 1.1, 9)  # times a bound, below which all routes are looked at
WIDTH = 5000  # labels
LIMIT_STEP, LIMIT_GAP, LIMITS = 1.08, 1.004, 7  # between limits, and how many are tried
NARROW, WHOLE, DEARER = 500, 1.7, 1.25  # labels for periods; prices, as plans are whole
ORDERS = 3  # for which a plan is made at a time
NODES, REACH = 30, 1  # nodes of the tree; layers from a cut that may lie on either side


def local_search(best: Incumbent, target: float, brief: bool) -> tuple[float, float]:
    """Offer plans to `best` until one is proven to be within `target`; returns a bound on every
    plan's score, and one on those of plans whose devices come once. `brief` is with less work."""
    every = Walks(best.view).relaxed(best.seconds)
    if every == INFINITY:
        return every, every
    if best.view.lanes > 1:
        _periods(best, every)
        return every, every
    once = max(every, _round_trips(best, every, brief))
    if best.plan is not None and not brief and once < best.score * (1 - 2 * target):
        _move_cuts(best, best.plan.plan)
    return every, once


def _round_trips(best: Incumbent, every: float, brief: bool) -> float:
    goal = ABOVE * every / best.view.unit
    prices = FEW_PRICES if brief else PRICES
    price, fees = _best_price(best.view, goal * best.view.unit, prices)
    bound = 0.0
    for times in NEAR_PRICES if price and not brief else (1.0,):
        routes = Routes(best.view, price * times)
        routes.fees = fees
        value = routes.ascend(goal, MORE_ROUNDS)
        for cut in CUTS * value:
            search = Search(routes, cut, WIDTH)
            ends = search.run()
            _offer(best, ends)
            if not search.complete:
                break
            value = min(cut, ends[0][0]) if ends else cut
            if ends and ends[0][0] <= cut or value * best.view.unit >= best.score:
                break
        bound = max(bound, value * best.view.unit)
        if best.late:
            break
    return bound


def _best_price(view: View, goal: float, prices: int) -> tuple[float, Floats]:
    """The price of loss at which the bound on all orders is highest, by golden sections; and the
    fees for devices there. Plans may take `goal` seconds."""
    budget, fees = view.problem.budget, np.zeros(len(view.groups))
    if not 0 < budget < INFINITY:
        return 0.0, fees

    limit = goal / view.lanes if view.lanes > 1 else INFINITY

    def value(at: float) -> float:
        nonlocal fees
        routes = Routes(view, float(np.exp(at)) / budget, limit)
        routes.fees = fees
        bound = routes.ascend(goal / view.unit, ROUNDS)
        fees = routes.fees
        return bound

    low, high = np.log(LEAST_PRICE), np.log(MOST_PRICE)
    left, right = high - GOLDEN * (high - low), low + GOLDEN * (high - low)
    at_left, at_right = value(left), value(right)
    for _ in range(prices - 2):
        if at_left > at_right:
            high, right, at_right = right, left, at_left
            left = high - GOLDEN * (high - low)
            at_left = value(left)
        else:
            low, left, at_left = left, right, at_right
            right = low + GOLDEN * (high - low)
            at_right = value(right)
    return float(np.exp(left if at_left > at_right else right)) / budget, fees


def _periods(best: Incumbent, every: float) -> None:
    """Halve what is between scores that no route was seen to keep to and the best plan's."""
    unseen = every
    price, fees = _best_price(best.view, unseen * LIMIT_STEP, FEW_PRICES)
    price *= WHOLE
    for _ in range(LIMITS):
        reached = min(best.score, unseen * LIMIT_STEP**2)
        limit = float(np.sqrt(unseen * reached))
        if reached <= unseen * LIMIT_GAP or best.late:
            return
        routes = Routes(best.view, price, limit / best.view.lanes)
        routes.fees = fees
        possible = routes.ascend(limit / best.view.unit, MORE_ROUNDS) * best.view.unit <= limit
        fees = routes.fees
        search = Search(routes, limit / best.view.unit, NARROW)
        _offer(best, ends := search.run() if possible else [], limit)
        if best.score > limit and ends:
            price *= DEARER
        elif best.score > limit:
            unseen = limit


def _offer(best: Incumbent, ends: list[tuple[float, Route]], enough: float = 0.0) -> None:
    """Plans of the first few orders."""
    for order, layers in _orders(ends):
        best.offer(best.orders(order).near(layers, 0, NODES, best.seconds, best.score, enough))


def _orders(ends: list[tuple[float, Route]]) -> Iterator[tuple[tuple[int, ...], list[int]]]:
    seen = set[tuple[int, ...]]()
    for _, route in ends:
        order = tuple(g for g, _, _ in route)
        if order not in seen and len(seen) < ORDERS:
            seen.add(order)
            yield order, [b - a for _, a, b in route]


def _move_cuts(best: Incumbent, plan: Plan) -> None:
    """Cuts of a plan a little elsewhere."""
    order = tuple(best.view.tables.names.index(stage.device) for stage in plan.stages)
    layers = [stage.end - stage.start for stage in plan.stages]
    orders = Orders(best.view, order)
    best.offer(orders.near(layers, REACH, NODES, best.seconds, best.score))
