"""The best plan so far of one search, and its clock."""

import time

from edgewise.errors import Infeasible
from edgewise.planning.joint.orders import Order, Orders, Placed
from edgewise.planning.joint.view import View
from edgewise.planning.problem import PlanResult, result
from edgewise.planning.tables import INFINITY

LEAST_SECONDS = 0.02


class Incumbent:
    """`score` is infinite until a plan is found."""

    def __init__(self, view: View, began: float, end: float) -> None:
        self.view, self.began, self.end = view, began, end
        self.plan: PlanResult | None = None
        self.score = INFINITY

    @property
    def seconds(self) -> float:
        """Time that is left, never none: programs take what they are given as a limit."""
        return max(self.end - time.perf_counter(), LEAST_SECONDS)

    @property
    def late(self) -> bool:
        return self.seconds <= LEAST_SECONDS

    def orders(self, groups: tuple[int, ...]) -> Orders:
        """The program for an order of groups, devices of each in turn."""
        turn = dict.fromkeys(range(len(self.view.groups)), 0)
        order: Order = ()
        for g in groups:
            members = self.view.groups[g]
            order = (*order, members[turn[g] % len(members)])
            turn[g] += 1
        return Orders(self.view, order)

    def offer(self, placed: Placed | None) -> None:
        """Keep a placement if it is a plan, and better."""
        if placed is None:
            return
        tables, problem = self.view.tables, self.view.problem
        devices = [tables.names[j] for j in placed.device]
        schemes = [tables.schemes[s] for s in placed.scheme]
        try:
            plan = result(
                problem, "joint", devices, schemes, status="heuristic", began=self.began, why=""
            )
        except Infeasible:  # by a rounding
            return
        if (score := problem.score(plan.estimate)) < self.score:
            self.plan, self.score = plan, score
