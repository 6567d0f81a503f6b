"""Simulation: plans at work on devices that need not exist. Torch-free, deterministic."""

from edgewise.simulation.arrivals import poisson, together
from edgewise.simulation.faults import Fault, Jitter, Join, Leave, LinkChange, Recovery, Slowdown
from edgewise.simulation.pipeline import simulate_plan
from edgewise.simulation.testbeds import SHAPES, TESTBEDS, load_testbed
from edgewise.simulation.trace import Arrival, Outcome, RequestOutcome

__all__ = [
    "SHAPES",
    "TESTBEDS",
    "Arrival",
    "Fault",
    "Jitter",
    "Join",
    "Leave",
    "LinkChange",
    "Outcome",
    "Recovery",
    "RequestOutcome",
    "Slowdown",
    "load_testbed",
    "poisson",
    "simulate_plan",
    "together",
]
