"""Planners: pure functions from a Problem to a PlanResult. One file each."""

from edgewise.planning.edgeshard import edgeshard
from edgewise.planning.even import even
from edgewise.planning.problem import Planner, PlanResult, Problem
from edgewise.planning.solo import solo

PLANNERS: dict[str, Planner] = {"solo": solo, "even": even, "edgeshard": edgeshard}

__all__ = ["PLANNERS", "PlanResult", "Planner", "Problem"]
