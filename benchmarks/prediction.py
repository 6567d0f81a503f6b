"""Claim: what the cost model and the simulator say of a plan is what running processes do: over a
hundred runs the time per token and the tokens per second are within 8 % in the median and 20 % for
19 in 20, the time to the first token within 15 % in the median.

One, two or three devices, one to eight requests at a time, links of 0, 5 and 30 ms and of 10 to
1,000 Mbps, prompts of 16 to 900 tokens, three schemes, the demo model and SmolLM2; what is run, and
where it is cut, is drawn by lot. Profiles are those that `edgewise profile` makes. Stages and links
are shown apart. `python benchmarks/prediction.py [runs for each network and model] [model,...]`.
"""

import os
import platform
import sys
import time
from dataclasses import dataclass
from itertools import pairwise
from statistics import median

import numpy as np
import torch
from claims import finish

from edgewise import kernels
from edgewise.clusters import Cluster, Device, Link
from edgewise.costs import CostModel
from edgewise.memory import PREFILL_CHUNK
from edgewise.models.checkpoint import open_checkpoint
from edgewise.plans import Plan, Stage
from edgewise.profiling import Grid, measure
from edgewise.runtime.coordinator.coordinator import Coordinator
from edgewise.runtime.coordinator.workers import Workers
from edgewise.runtime.engine import Request
from edgewise.runtime.local import start_local
from edgewise.simulation import simulate_plan, together
from edgewise.specs import ModelSpec, Workload

SLOWDOWNS = {"fast": 2.0, "middle": 3.0, "slow": 4.0}
NETWORKS = ((0.0, 1000.0), (5.0, 100.0), (5.0, 10.0), (30.0, 1000.0))  # ms, Mbps
SCHEMES = ("fp32", "q8g64", "q4g64")
REQUESTS, PROMPTS = (1, 2, 4, 8), (16, 64, 200, 500, 900)
TOKENS = 24
RUNS = 13  # for each network and model
CLAIMS = {"token": (0.08, 0.20), "rate": (0.08, 0.20), "first": (0.15, 1.0)}


@dataclass(frozen=True)
class Times:
    """Seconds to the first token of the first request, and between tokens of a request once all
    are being answered; of a single request's token, on stages and on links."""

    first: float
    token: float
    stages: float
    links: float


def cluster_of(network: tuple[float, float]) -> Cluster:
    latency, rate = network
    devices = tuple(Device(name, 8_000_000_000, 1, slow) for name, slow in SLOWDOWNS.items())
    links = tuple(
        Link(a, b, rate * 1e6 / 8, latency / 1e3) for a in SLOWDOWNS for b in SLOWDOWNS if a != b
    )
    return Cluster(devices, links, "fast")


def random_plan(rng: np.random.Generator, model: str, spec: ModelSpec) -> Plan:
    """From the source over none, one or two others, some of these plans back to it."""
    others = [str(name) for name in rng.permutation(["middle", "slow"])[: rng.integers(3)]]
    order = ["fast", *others, *(["fast"] if others and rng.random() < 0.3 else [])]
    inner = rng.choice(np.arange(1, spec.num_layers), len(order) - 1, replace=False)
    cuts = [0, *sorted(inner.tolist()), spec.num_layers]
    scheme = str(rng.choice(SCHEMES))
    stages = tuple(
        Stage(name, a, b, (scheme,) * (b - a))
        for name, (a, b) in zip(order, pairwise(cuts), strict=True)
    )
    return Plan(model, spec.digest, spec.num_layers, stages)


def steady(tokens: list[list[float]]) -> float:
    """Seconds between tokens of a request while all are answered, from when each token came."""
    begun, ended = max(row[0] for row in tokens), min(row[-1] for row in tokens)
    gaps = [b - a for row in tokens for a, b in pairwise(row) if a >= begun and b <= ended]
    return median(gaps or [b - a for row in tokens for a, b in pairwise(row)])


def warm_up(engine: Coordinator, prompt: tuple[int, ...]) -> None:
    """Read every weight once: a model that was just loaded has to find its pages first."""
    engine.submit(Request(prompt, 2))
    while not engine.idle:
        engine.step()


def measured(workers: Workers, plan: Plan, work: Workload) -> Times:
    engine = Coordinator(workers, plan.model, plan, work)
    prompt = tuple(10 + i % 200 for i in range(work.prompt_tokens))
    warm_up(engine, prompt[:PREFILL_CHUNK])
    began = time.monotonic()
    numbers = [engine.submit(Request(prompt, work.new_tokens)) for _ in range(work.sequences)]
    came: dict[int, list[float]] = {number: [] for number in numbers}
    stages: list[float] = []
    while not engine.idle:
        for token in engine.step():
            came[token.request].append(token.at)
            stages.append(sum(token.stage_seconds))
    times = list(came.values())
    gap, computing = steady(times), median(stages)
    return Times(times[0][0] - began, gap, computing, gap - computing)


def predicted(costs: CostModel, plan: Plan) -> Times:
    estimate = costs.estimate(plan)
    stages = sum(part.decode_seconds for part in estimate.stages)
    token = estimate.round_seconds()
    return Times(estimate.prefill_seconds, token, stages, token - stages)


def simulated(costs: CostModel, plan: Plan) -> Times:
    work = costs.workload
    asked = together(work.sequences, work.prompt_tokens, work.new_tokens)
    times = [list(x.token_seconds) for x in simulate_plan(costs, plan, asked).requests]
    return Times(times[0][0], steady(times), 0.0, 0.0)


def runs(model: str, count: int) -> list[dict[str, object]]:
    """Predicted, simulated and measured, on every network."""
    spec, rng = open_checkpoint(model).spec, np.random.default_rng(7)
    longest = min(spec.max_context, max(PROMPTS) + TOKENS)
    rows = []
    for network in NETWORKS:
        with start_local(cluster_of(network)) as workers:
            profile = measure(workers, model, spec, SCHEMES, Grid.wide(longest))
            for _ in range(count):
                requests = int(rng.choice(REQUESTS))
                prompt = int(rng.choice([x for x in PROMPTS if x + TOKENS <= longest]))
                work = Workload(prompt, TOKENS, requests, requests)
                plan = random_plan(rng, model, spec)
                costs = CostModel(spec, workers.cluster, profile, work)
                rows.append(
                    compare(model, network, plan, work, costs, measured(workers, plan, work))
                )
    return rows


def compare(
    model: str, network: tuple[float, float], plan: Plan, work: Workload, costs: CostModel,
    real: Times,
) -> dict[str, object]:  # fmt: skip
    said, played = predicted(costs, plan), simulated(costs, plan)
    row: dict[str, object] = {
        "model": model, "latency_ms": network[0], "mbps": network[1],
        "devices": [stage.device for stage in plan.stages], "scheme": plan.schemes[0],
        "requests": work.sequences, "prompt": work.prompt_tokens,
        "first": [said.first, played.first, real.first],
        "token": [said.token, played.token, real.token],
        "stages": [said.stages, real.stages],
        "links": [said.links, real.links],
    }  # fmt: skip
    print(
        f"{model:8}{network[0]:3.0f} ms {network[1]:5.0f} Mbps {'-'.join(plan.devices):18} "
        f"{plan.schemes[0]:6} x{work.sequences} prompt {work.prompt_tokens:3}: first "
        f"{real.first * 1e3:7.1f} ms, {real.first / said.first:.2f} of predicted; token "
        f"{real.token * 1e3:6.2f} ms, {real.token / said.token:.2f}; stages "
        f"{real.stages / said.stages:.2f}; simulated {real.token / played.token:.2f}",
        flush=True,
    )
    return row


def errors(rows: list[dict[str, object]], what: str, who: int) -> np.ndarray:
    """Relative errors of the prediction (0) or the simulation (1)."""
    values = np.array([row["token" if what == "rate" else what] for row in rows], dtype=float)
    said, real = values[:, who], values[:, 2]
    if what == "rate":  # tokens per second
        said, real = 1 / said, 1 / real
    off: np.ndarray = np.abs(said / real - 1)
    return off


def main() -> None:
    count = int(sys.argv[1]) if len(sys.argv) > 1 else RUNS
    models = sys.argv[2].split(",") if len(sys.argv) > 2 else ["demo", "smollm2"]
    rows = [row for model in models for row in runs(model, count)]
    failed, table = [], {}
    for what, (middle, most) in CLAIMS.items():
        for who, name in enumerate(("predicted", "simulated")):
            off = errors(rows, what, who)
            spread = float(np.median(off)), float(np.quantile(off, 0.95))
            table[f"{name} {what}"] = spread
            good = spread[0] <= middle and spread[1] <= most
            print(f"{name:10} {what:6} median error {spread[0]:6.1%}, 95 % within {spread[1]:6.1%}")
            if not good:
                failed.append(f"{name} {what}: {spread[0]:.1%}, {spread[1]:.1%}")
    finish("prediction", {
        "torch": torch.__version__, "runs": len(rows),
        "machine": f"{platform.machine()}, {kernels.instruction_set()}, {os.cpu_count()} cores",
        "errors": table, "rows": rows,
    }, failed)  # fmt: skip


if __name__ == "__main__":
    main()
