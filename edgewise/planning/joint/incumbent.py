"""The best plan so far of one search, and its clock."""

import time
from itertools import cycle

from edgewise.errors import Infeasible
from edgewise.planning.joint.orders import Orders, Placed
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

    @property
    def order(self) -> tuple[int, ...]:
        """The groups of the best plan's stages, none without a plan."""
        names = self.view.tables.names
        group = {names[j]: g for g, members in enumerate(self.view.groups) for j in members}
        return tuple(group[stage.device] for stage in self.plan.plan.stages) if self.plan else ()

    def orders(self, groups: tuple[int, ...]) -> Orders:
        """The program for an order of groups, devices of each in turn."""
        members = [cycle(group) for group in self.view.groups]
        return Orders(self.view, tuple(next(members[g]) for g in groups))

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
