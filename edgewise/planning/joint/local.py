"""Where programs are large, or not done soon: the routes that promise most (routes.py, labels.py),
and small programs near the cuts that these give.

    round trip   L(l, f) of routes.py, concave in the price l of loss and the fees f, is raised, and
                 labels take it on to the least of routes that use each device once
    period       limits P between a bound and the best plan are halved: where some route within P
                 has L <= Q P, plans are made of it; bounds are those of the round trip and walks.py

Work is counted in prices, rounds, labels and nodes; the clock is the last resort.
"""

import numpy as np

from edgewise.planning.joint.incumbent import Incumbent
from edgewise.planning.joint.labels import RouteSearch
from edgewise.planning.joint.routes import Route, Routes
from edgewise.planning.joint.stages import COARSE
from edgewise.planning.joint.view import View
from edgewise.planning.joint.walks import Walks
from edgewise.planning.tables import INFINITY, Floats

PRICE_RANGE = 0.02, 4.0  # in which the price is, of all of the budget and in parts of a plan's time
PRICES, FEW_PRICES, SECTION = 9, 6, 0.382  # how many are tried; the golden section
NEAR_PRICES = (1.0, 1.06, 0.94)  # times the best price, at which all routes are looked at
SAFE_PRICES = (1.3, 1.8, 3.0)  # the same, as long as there is no plan: its layers are whole
ROUNDS, MORE_ROUNDS = 40, 150  # of fees
ABOVE = 1.05  # times the bound of walks.py, where the best may be
CUTS = np.geomspace(1.005, 1.1, 9)  # times a bound, below which all routes are looked at
WIDTH, NARROW = 5000, 500  # labels, for round trips and for periods
DEAR, DEARER = 1.5, 1.25  # the first price where periods count, and how it rises
LIMIT_STEP, LIMIT_GAP, LIMITS = 1.08, 1.004, 7  # between limits, and how many are tried
FIRST_SECONDS = 1.0  # that a first plan is always given
ORDERS = 3  # for which a plan is made at a time
NODES, REACH, FAR = 30, 1, 4  # nodes of the tree; layers from a cut that may lie on either side


def local_search(best: Incumbent, target: float, brief: bool) -> tuple[float, float]:
    """Offer plans to `best` until one is proven to be within `target`; returns a bound on every
    plan's score, and one on those of plans whose devices come once. `brief` is with less work."""
    every = Walks(best.view).relaxed(best.seconds)
    if every == INFINITY:
        return every, every
    periods = best.view.lanes > 1
    once = max(every, _round_trips(best, every, brief or periods))
    if once < best.score * (1 - 2 * target):
        if periods:
            _periods(best, every)
        elif best.plan is not None and not brief:
            layers = [stage.end - stage.start for stage in best.plan.plan.stages]
            best.offer(best.orders(best.order).near(layers, REACH, NODES, best.seconds, best.score))
    return every, once


def _round_trips(best: Incumbent, every: float, brief: bool) -> float:
    price, fees = _best_price(best.view, every, FEW_PRICES if brief else PRICES)
    near, bound = NEAR_PRICES if price and not brief else NEAR_PRICES[:1], 0.0
    for times in (*near, *SAFE_PRICES):
        if best.plan is not None and (times in SAFE_PRICES or best.late):
            break
        routes = Routes(best.view, price * times, fees)
        least = routes.ascend(ABOVE * every / best.view.unit, MORE_ROUNDS)
        reach = FAR if times in SAFE_PRICES else 0
        bound = max(bound, _least(best, routes, least, reach) * best.view.unit)
    return bound


def _least(best: Incumbent, routes: Routes, least: float, reach: int) -> float:
    """What routes take at least, given what their relaxation does, in the view's unit."""
    for cut in CUTS * least:
        search = RouteSearch(routes, cut, WIDTH)
        ends = search.run()
        _offer(best, ends, reach)
        if not search.complete:
            break
        least = min(cut, *(value for value, _ in ends)) if ends else cut
        if least < cut or least * best.view.unit >= best.score:
            break
    return least


def _best_price(view: View, every: float, tries: int) -> tuple[float, Floats]:
    """The price of loss at which the bound on all orders is highest, by golden sections; and the
    fees for devices there."""
    budget, fees, unit = view.problem.budget, np.zeros(len(view.groups)), every / view.unit
    if not 0 < budget < INFINITY:
        return 0.0, fees

    def value(at: float) -> float:
        nonlocal fees
        routes = Routes(view, float(np.exp(at)) * unit / budget, fees, most=COARSE)
        bound, fees = routes.ascend(ABOVE * unit, ROUNDS), routes.fees
        return bound

    low, high = np.log(PRICE_RANGE)
    tried = {low: -INFINITY, high: -INFINITY, (low + high) / 2: value((low + high) / 2)}
    for _ in range(tries - 1):
        points = sorted(tried)
        k = points.index(max(points, key=tried.__getitem__))
        wider = max(points[k - 1], points[k + 1], key=lambda at: abs(at - points[k]))
        at = points[k] + SECTION * (wider - points[k])
        tried[at] = value(at)
    tried[-INFINITY] = value(-INFINITY)  # loss counts for nothing
    return float(np.exp(max(tried, key=tried.__getitem__))) * unit / budget, fees


def _periods(best: Incumbent, every: float) -> None:
    """Halve what is between scores that no route was seen to keep to and the best plan's; dearer
    where routes keep to one and plans do not."""
    view, budget, unseen = best.view, best.view.problem.budget, every
    price = DEAR * every / view.unit / budget if 0 < budget < INFINITY else 0.0
    fees = np.zeros(len(view.groups))
    for _ in range(LIMITS):
        reached = min(best.score, unseen * LIMIT_STEP**2)
        limit = float(np.sqrt(unseen * reached))
        if reached <= unseen * LIMIT_GAP or best.late:
            return
        routes = Routes(view, price, fees, limit / view.lanes)
        possible = routes.ascend(limit / view.unit, MORE_ROUNDS) * view.unit <= limit
        fees = routes.fees
        ends = RouteSearch(routes, limit / view.unit, NARROW).run() if possible else []
        _offer(best, ends)
        if best.score > limit and ends:
            price *= DEARER
        elif best.score > limit:
            unseen = limit


def _offer(best: Incumbent, ends: list[tuple[float, Route]], reach: int = 0) -> None:
    """Plans of the first few orders."""
    orders = dict[tuple[int, ...], list[int]]()
    for _, route in ends:
        orders.setdefault(tuple(g for g, _, _ in route), [b - a for _, a, b in route])
    for order, layers in list(orders.items())[:ORDERS]:
        seconds = best.seconds if best.plan else max(best.seconds, FIRST_SECONDS)
        best.offer(best.orders(order).near(layers, reach, NODES, seconds, best.score))
