"""Claim: on random clusters and on EdgeShard's testbed `joint` is never worse than any other
planner under the same quality budget, by no more than half a percent, and mostly much better.

Clusters of three to six devices of everyday kinds with random memory and links, models of 16 to 32
blocks, latency and throughput in turn; losses are synthetic (c_l * 4^-bits, the ends more
sensitive). `uniform` is what quantizing first gives: one scheme throughout, the best that the
budget allows, placed by `joint`. `python benchmarks/advantage.py [clusters]`.
"""

import os
import platform
import sys
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, replace
from functools import partial

import highspy
import numpy as np
from claims import finish

from edgewise.clusters import Cluster, Device, Link
from edgewise.costs import CostModel
from edgewise.errors import Infeasible
from edgewise.memory import workspace_bytes
from edgewise.planning import PLANNERS, Objective, Planner, PlanResult, Problem
from edgewise.planning.dilemma import dilemma
from edgewise.planning.edgeshard_exact import edgeshard_exact
from edgewise.planning.joint import joint
from edgewise.planning.llm_pq import llm_pq
from edgewise.planning.llm_pq_heuristic import llm_pq_heuristic
from edgewise.schemes import get_scheme
from edgewise.sensitivities import Sensitivity
from edgewise.simulation.rooflines import Roofline, make_profile
from edgewise.simulation.testbeds import LLAMA2_7B, load_testbed
from edgewise.specs import LayerKind, LayerSpec, ModelSpec, Workload

SCHEMES = ("q2g64", "q3g64", "q4g64", "q5g64", "q6g64", "q8g64", "bf16")
SECONDS = 5.0  # for every planner that takes a limit
SLACK = 0.005  # relative
REFERENCE = 2.0  # nats per token
TIMED: dict[str, Planner] = {
    "edgeshard-exact": partial(edgeshard_exact, time_limit=SECONDS),
    "dilemma": partial(dilemma, time_limit=SECONDS),
    "llm-pq": partial(llm_pq, time_limit=SECONDS),
    "llm-pq-heuristic": partial(llm_pq_heuristic, time_limit=SECONDS),
    "joint": partial(joint, time_limit=SECONDS),
}


@dataclass(frozen=True)
class Kind:
    """What a kind of device typically has: GB/s of memory, GFLOP/s, seconds per layer."""

    name: str
    gigabytes_per_second: float
    gigaflops: float
    overhead: float


KINDS = (
    Kind("pi", 9, 60, 4e-4),
    Kind("mini-pc", 25, 300, 1e-4),
    Kind("laptop", 50, 800, 6e-5),
    Kind("orin-nano", 55, 2_000, 1e-4),
    Kind("mac", 120, 4_000, 5e-5),
    Kind("gpu", 400, 30_000, 3e-5),
)
LINKS = ((1e9 / 8, 4e-4), (200e6 / 8, 3e-3), (30e6 / 8, 2e-2))  # wired, wireless, far away


def shape(blocks: int, hidden: int, ffn: int, vocabulary: int) -> ModelSpec:
    """A Llama shape, a quarter of the heads for keys and values."""
    kv = hidden // 4
    matrices = ((hidden + 2 * kv, hidden), (hidden, hidden), (2 * ffn, hidden), (hidden, ffn))
    ends = ((vocabulary, hidden),)
    layers = (
        LayerSpec(LayerKind.EMBEDDING, ends, 0),
        *[LayerSpec(LayerKind.BLOCK, matrices, 2 * hidden, kv_width=2 * kv)] * blocks,
        LayerSpec(LayerKind.HEAD, ends, hidden),
    )
    return ModelSpec(f"llama-{blocks}x{hidden}", layers, hidden, vocabulary, 4096, False)


MODELS = (
    shape(16, 2048, 8192, 128_256),
    shape(22, 2048, 5632, 32_000),
    shape(28, 3072, 8192, 32_000),
    shape(32, 4096, 11_008, 32_000),
)


def random_problem(seed: int) -> Problem:
    """Enough memory together for two to ten bits per weight."""
    rng = np.random.default_rng(seed)
    model = MODELS[rng.integers(len(MODELS))]
    kinds = [KINDS[i] for i in rng.integers(len(KINDS), size=rng.integers(3, 7))]
    names = [f"{kind.name}-{i}" for i, kind in enumerate(kinds)]
    latency = seed % 2 == 0
    work = Workload(128, 64, *((1, 1) if latency else (8, 4)))
    share = rng.lognormal(0.0, 0.6, len(kinds))
    share /= share.sum()
    weights = sum(layer.weight_bytes(get_scheme("bf16")) for layer in model.layers)
    least = model.layers[0].weight_bytes(get_scheme("q4g64"))
    room = least + weights * rng.uniform(0.25, 0.9) * share
    devices = tuple(
        Device(name, int(bytes_) + workspace_bytes(model, work))
        for name, bytes_ in zip(names, room, strict=True)
    )
    cluster = Cluster(devices, links(rng, names), names[0])
    profile = make_profile(
        model, [figures(rng, *x) for x in zip(names, kinds, strict=True)], SCHEMES
    )
    sensitivity = random_sensitivity(rng, model)
    objective = Objective.LATENCY if latency else Objective.THROUGHPUT
    budget = REFERENCE * float(rng.choice([0.005, 0.01, 0.02, 0.05, 0.1]))
    costs = CostModel(model, cluster, profile, work, sensitivity)
    return Problem(costs, SCHEMES, objective, budget)


def figures(rng: np.random.Generator, name: str, kind: Kind) -> Roofline:
    noise = rng.lognormal(0.0, 0.2, 2)
    overheads = {x: kind.overhead * rng.uniform(0.8, 1.6) for x in SCHEMES}
    return Roofline(
        name, kind.gigaflops * 1e9 * noise[0], kind.gigabytes_per_second * 1e9 * noise[1],
        step_seconds=2e-4, overhead_seconds=kind.overhead, scheme_overheads=overheads,
    )  # fmt: skip


def links(rng: np.random.Generator, names: list[str]) -> tuple[Link, ...]:
    """Every device is connected in one of three ways; a pair is as good as its worse end."""
    way = rng.integers(len(LINKS), size=len(names))
    links = []
    for i, a in enumerate(names):
        for j, b in enumerate(names):
            if i != j:
                rate, latency = LINKS[max(way[i], way[j])]
                noise = rng.lognormal(0.0, 0.3, 2)
                links.append(Link(a, b, rate * noise[0], latency * noise[1]))
    return tuple(links)


def random_sensitivity(rng: np.random.Generator, model: ModelSpec) -> Sensitivity:
    """Scaled so that four bits everywhere lose about 2 % of the reference."""
    scale = rng.lognormal(0.0, 0.8, model.num_layers)
    scale[[0, -1]] *= 8
    scale *= 0.02 * REFERENCE / (scale.sum() * 4.0**-4)
    losses = {
        name: tuple(scale * 4.0 ** -get_scheme(name).bits * rng.lognormal(0.0, 0.15, len(scale)))
        for name in SCHEMES
    }
    losses["bf16"] = (0.0,) * model.num_layers
    return Sensitivity(model.digest, "synthetic", REFERENCE, losses)


def uniform(problem: Problem) -> PlanResult:
    """One scheme throughout, placed by `joint`: the best over all schemes within the budget."""
    plans = []
    for scheme in problem.schemes:
        try:
            plans.append(joint(replace(problem, schemes=(scheme,)), SECONDS))
        except Infeasible:
            continue
    if not plans:
        raise Infeasible("no single scheme fits")
    return min(plans, key=lambda x: problem.score(x.estimate))


def asked() -> dict[str, Planner]:
    """Every planner, with little patience."""
    return {**PLANNERS, **TIMED, "uniform": uniform}


def scores(problem: Problem) -> dict[str, float]:
    """Seconds that each planner's plan takes; none for those that find no plan."""
    seconds = {}
    for name, planner in asked().items():
        try:
            seconds[name] = problem.score(planner(problem).estimate)
        except Infeasible:
            continue
    return seconds


def on_cluster(seed: int) -> dict[str, float]:
    row = scores(random_problem(seed))
    better = [f"{x} {row[x] / row['joint']:.4f}" for x in row if row[x] < row.get("joint", 0)]
    print(f"cluster {seed}: better than joint: {', '.join(better) or 'none'}", flush=True)
    return row


def on_testbed(objective: Objective) -> dict[str, float]:
    """EdgeShard's fifteen devices and Llama 2 7B, with our schemes on top."""
    cluster, profile = load_testbed("edgeshard", LLAMA2_7B, schemes=SCHEMES)
    sensitivity = random_sensitivity(np.random.default_rng(0), LLAMA2_7B)
    work = Workload(32, 96, *((1, 1) if objective is Objective.LATENCY else (8, 4)))
    costs = CostModel(LLAMA2_7B, cluster, profile, work, sensitivity)
    return scores(Problem(costs, SCHEMES, objective, 0.01 * REFERENCE))


def summary(rows: list[dict[str, float]], name: str) -> dict[str, float | None]:
    """How many times as long as joint's plan a planner's takes, where both find one."""
    ratios = [row[name] / row["joint"] for row in rows if name in row and "joint" in row]
    missed = sum("joint" in row and name not in row for row in rows)
    points = map(float, np.quantile(ratios, [0, 0.1, 0.5, 0.9, 1])) if ratios else [None] * 5
    keys = ("least", "tenth", "median", "ninetieth", "most")
    return {"plans": len(ratios), "missed": missed, **dict(zip(keys, points, strict=True))}


def report(title: str, rows: list[dict[str, float]]) -> dict[str, dict[str, float | None]]:
    print(f"{title}: time of each planner's plan / joint's ({len(rows)} problems)")
    print(f"{'':22}{'plans':>6}{'missed':>8}{'least':>8}{'10 %':>8}{'median':>8}{'90 %':>8}")
    table = {name: summary(rows, name) for name in asked() if name != "joint"}
    for name, x in table.items():
        points = (x[key] for key in ("least", "tenth", "median", "ninetieth"))
        shown = "".join(f"{'-':>8}" if point is None else f"{point:8.3f}" for point in points)
        print(f"{name:22}{x['plans']:6}{x['missed']:8}{shown}")
    alone = sum("joint" not in row and len(row) > 0 for row in rows)
    print(f"problems where others find a plan and joint does not: {alone}")
    return table


def main() -> None:
    count = int(sys.argv[1]) if len(sys.argv) > 1 else 200
    with ProcessPoolExecutor(os.cpu_count()) as pool:
        rows = list(pool.map(on_cluster, range(count)))
        testbed = list(pool.map(on_testbed, Objective))
    tables = {
        "latency": report("latency", rows[::2]),
        "throughput": report("throughput", rows[1::2]),
        "edgeshard": report("EdgeShard's testbed", testbed),
    }
    versions = {"python": platform.python_version(), "highspy": str(highspy.Highs().version())}
    machine = f"{platform.machine()}, {os.cpu_count()} cores"
    problems = [*rows, *testbed]
    failed = [
        f"{name}'s plan is {1 - ratio:.2%} quicker on one of {len(problems)} problems"
        for name in asked()
        if name != "joint" and (ratio := least_ratio(problems, name)) < 1 - SLACK
    ]
    if alone := sum("joint" not in row and len(row) > 0 for row in problems):
        failed.append(f"on {alone} problems others find a plan and joint does not")
    finish("advantage", {"machine": machine, **versions, **tables}, failed)


def least_ratio(rows: list[dict[str, float]], name: str) -> float:
    """The least time of a planner's plan over joint's."""
    return min((x[name] / x["joint"] for x in rows if name in x and "joint" in x), default=1.0)


if __name__ == "__main__":
    main()
