"""Planners: pure functions from a Problem to a PlanResult. One file each, `joint` a folder."""

from edgewise.planning.cloud_edge import cloud_edge_even, cloud_edge_opt
from edgewise.planning.dilemma import dilemma
from edgewise.planning.disks import with_disks
from edgewise.planning.edgeshard import edgeshard
from edgewise.planning.edgeshard_exact import edgeshard_exact
from edgewise.planning.edgeshard_throughput import edgeshard_throughput
from edgewise.planning.joint import joint, quick_joint
from edgewise.planning.llm_pq import llm_pq
from edgewise.planning.llm_pq_heuristic import llm_pq_heuristic
from edgewise.planning.problem import Objective, Planner, PlanResult, Problem
from edgewise.planning.proportional import even, memory_proportional, speed_proportional
from edgewise.planning.solo import solo

_IN_MEMORY: dict[str, Planner] = {
    "solo": solo,
    "even": even,
    "memory": memory_proportional,
    "speed": speed_proportional,
    "cloud-edge-even": cloud_edge_even,
    "cloud-edge-opt": cloud_edge_opt,
    "edgeshard": edgeshard,
    "edgeshard-exact": edgeshard_exact,
    "edgeshard-throughput": edgeshard_throughput,
    "dilemma": dilemma,
    "llm-pq": llm_pq,
    "llm-pq-heuristic": llm_pq_heuristic,
    "joint": joint,
}
PLANNERS = {name: with_disks(planner) for name, planner in _IN_MEMORY.items()} | {
    "joint": with_disks(joint, quick_joint)
}

# What `edgewise run` and the demo ask: quick ones, simple before clever.
QUICK = ("solo", "even", "memory", "edgeshard", "joint")

__all__ = ["PLANNERS", "QUICK", "Objective", "PlanResult", "Planner", "Problem"]
