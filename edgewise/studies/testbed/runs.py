"""What runs on the testbed's source: wait for the others, measure, plan, and run every plan.

`run_from_input` reads a line of JSON, its setting, and writes one with the token for others to
join, then one with what each planner's plan was predicted to take and what it took.
"""

import json
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from statistics import median
from typing import Any

import torch

from edgewise.clusters import Device
from edgewise.costs import CostModel
from edgewise.errors import Infeasible
from edgewise.hosting.measured import Measured
from edgewise.models.checkpoint import open_checkpoint
from edgewise.planning import PLANNERS, PlanResult, Problem
from edgewise.profiling import Grid
from edgewise.runtime.coordinator.coordinator import Coordinator
from edgewise.runtime.coordinator.workers import Workers
from edgewise.runtime.engine import Request, stream
from edgewise.runtime.live import start_live
from edgewise.specs import Workload

PROMPT_TOKENS, NEW_TOKENS, ROUNDS = 64, 33, 3
METHODS = ("solo", "even", "memory", "edgeshard", "joint")
JOIN_SECONDS = 120.0


@dataclass(frozen=True, slots=True)
class Setting:
    """The source's device, the address that it listens at, and how many others join."""

    model: str
    scheme: str
    name: str
    memory_bytes: int
    slowdown: float
    host: str
    others: int


def run_all(setting: Setting) -> list[dict[str, Any]]:
    """By planner, milliseconds to the first token and per token after it, predicted and
    measured."""
    spec = open_checkpoint(setting.model).spec
    workload = Workload(PROMPT_TOKENS, NEW_TOKENS)
    device = Device(setting.name, setting.memory_bytes, slowdown=setting.slowdown)
    workers, agents, invitation = start_live(device, setting.host, 0)
    with workers:
        say({"port": int(agents.address.rpartition(":")[2]), "token": invitation.token})
        while len(workers.names) <= setting.others:
            workers.receive(JOIN_SECONDS)
            workers.admit(workers.arrivals.popleft(), agents)
        measured = Measured(workers, setting.model, spec, Grid.around(workload))
        costs = CostModel(spec, workers.cluster, measured.profile((setting.scheme,)), workload)
        plans = _plans(Problem(costs, (setting.scheme,)))
        seconds = _measure(workers, setting.model, workload, list(plans.values()))
    return [
        {
            "planner": name,
            "plan": [[x.device, x.end - x.start] for x in plan.plan.stages],
            "predicted": [1e3 * plan.estimate.prefill_seconds, 1e3 * plan.estimate.decode_seconds],
            "measured": [1e3 * part for part in took],
        }
        for (name, plan), took in zip(plans.items(), seconds, strict=True)
    ]


def _plans(problem: Problem) -> dict[str, PlanResult]:
    plans = {}
    for name in METHODS:
        try:
            plans[name] = PLANNERS[name](problem)
        except Infeasible:
            continue
    return plans


def _measure(
    workers: Workers, model: str, workload: Workload, plans: Sequence[PlanResult]
) -> list[tuple[float, float]]:
    """Medians over rounds in which the plans take turns: seconds to the first token, per token."""
    generator = torch.Generator().manual_seed(0)
    prompt = tuple(torch.randint(100, 1000, (PROMPT_TOKENS,), generator=generator).tolist())
    engine = Coordinator(workers, model, plans[0].plan, workload)
    first: list[list[float]] = [[] for _ in plans]
    each: list[list[float]] = [[] for _ in plans]
    for _ in range(ROUNDS):
        for number, plan in enumerate(plans):
            engine.apply(plan.plan)
            list(stream(engine, Request(prompt[:2], 3)))  # what is set up on first use
            began = time.monotonic()
            times = [token.at for token in stream(engine, Request(prompt, NEW_TOKENS))]
            first[number].append(times[0] - began)
            each[number] += [b - a for a, b in pairwise(times)]
    return [(median(a), median(b)) for a, b in zip(first, each, strict=True)]


def say(document: object) -> None:
    sys.stdout.write(json.dumps(document) + "\n")
    sys.stdout.flush()


def run_from_input() -> None:
    say(run_all(Setting(**json.loads(sys.stdin.readline()))))
