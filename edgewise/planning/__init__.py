"""Planners: pure functions from a Problem to a PlanResult. One file each."""

from edgewise.planning.edgeshard import edgeshard
from edgewise.planning.problem import Objective, Planner, PlanResult, Problem
from edgewise.planning.proportional import even, memory_proportional, speed_proportional
from edgewise.planning.solo import solo

PLANNERS: dict[str, Planner] = {
    "solo": solo,
    "even": even,
    "memory": memory_proportional,
    "speed": speed_proportional,
    "edgeshard": edgeshard,
}

__all__ = ["PLANNERS", "Objective", "PlanResult", "Planner", "Problem"]
