"""Claim: the profile predicts what plans with a scheme for each layer take: decoding within 8 % of
the measured time, in the median.

Random cuts, orders and schemes on the demo's three devices (with memory for anything); every plan
is run, 64 tokens after a prompt of 64. With the model "1.1B", a checkpoint of that shape and random
weights is written to a temporary folder. `python benchmarks/mixed_plans.py [plans] [model]`.
"""

import os
import platform
import sys
import tempfile
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from statistics import median

import numpy as np
from claims import finish
from loading import write_checkpoint

from edgewise import kernels
from edgewise.cluster_files import load_cluster
from edgewise.clusters import Cluster
from edgewise.costs import CostModel
from edgewise.demo import CLUSTER_FILE
from edgewise.models.checkpoint import open_checkpoint
from edgewise.plans import Plan, Stage
from edgewise.profiling import Grid, measure
from edgewise.runtime.coordinator.coordinator import Coordinator
from edgewise.runtime.coordinator.workers import Workers
from edgewise.runtime.engine import Request, stream
from edgewise.runtime.local import start_local
from edgewise.specs import ModelSpec, Workload

SCHEMES = ("q2g64", "q3g64", "q4g64", "q5g64", "q6g64", "q8g64")
WORK = Workload(64, 64)
MEMORY = 6_000_000_000
MOST = 0.08  # median error


def roomy(cluster: Cluster) -> Cluster:
    devices = tuple(replace(x, memory_bytes=MEMORY) for x in cluster.devices)
    return replace(cluster, devices=devices)


def random_plan(rng: np.random.Generator, cluster: Cluster, model: str, spec: ModelSpec) -> Plan:
    """One to all devices: the source, which the prompts do not leave, and then any order."""
    layers, source = spec.num_layers, cluster.source
    others = rng.permutation([x.name for x in cluster.devices if x.name != source])
    order = [source, *others[: rng.integers(len(others) + 1)]]
    inner = rng.choice(np.arange(1, layers), len(order) - 1, replace=False)
    cuts = [0, *sorted(inner.tolist()), layers]
    stages = tuple(
        Stage(str(name), a, b, tuple(map(str, rng.choice(SCHEMES, b - a))))
        for name, (a, b) in zip(order, pairwise(cuts), strict=True)
    )
    return Plan(model, spec.digest, layers, stages)


def seconds_per_token(workers: Workers, plan: Plan) -> float:
    engine = Coordinator(workers, plan.model, plan, WORK)
    request = Request(tuple(range(10, 10 + WORK.prompt_tokens)), WORK.new_tokens)
    times = [token.at for token in stream(engine, request)]
    return median(b - a for a, b in pairwise(times))


def compare(model: str, count: int) -> list[tuple[float, float]]:
    """Predicted and measured seconds per token of random plans."""
    cluster, rng = roomy(load_cluster(CLUSTER_FILE)), np.random.default_rng(0)
    spec = open_checkpoint(model).spec
    rows = []
    with start_local(cluster) as workers:
        profile = measure(workers, model, spec, SCHEMES, Grid.around(WORK))
        costs = CostModel(spec, cluster, profile, WORK)
        for _ in range(count):
            plan = random_plan(rng, cluster, model, spec)
            predicted = costs.estimate(plan).decode_seconds
            measured = seconds_per_token(workers, plan)
            rows.append((predicted, measured))
            print(
                f"{'-'.join(plan.devices):20} predicted {predicted * 1e3:6.2f} ms, measured "
                f"{measured * 1e3:6.2f} ms, ratio {measured / predicted:.3f}",
                flush=True,
            )
    return rows


def main() -> None:
    count = int(sys.argv[1]) if len(sys.argv) > 1 else 20
    model = sys.argv[2] if len(sys.argv) > 2 else "demo"
    with tempfile.TemporaryDirectory() as folder:
        if model == "1.1B":
            os.environ["XDG_CACHE_HOME"] = folder  # quantized layers go with the checkpoint
            write_checkpoint(Path(folder))
        rows = compare(folder if model == "1.1B" else model, count)
    errors = sorted(abs(b / a - 1) for a, b in rows)
    print(f"median error {median(errors):.1%}, worst {errors[-1]:.1%}")
    failed = [f"median error {median(errors):.1%}"] if median(errors) > MOST else []
    finish("mixed_plans", {
        "model": model,
        "machine": f"{platform.machine()}, {os.cpu_count()} cores",
        "kernels": kernels.instruction_set(), "median_error": median(errors),
        "ratios": [b / a for a, b in rows],
    }, failed)  # fmt: skip


if __name__ == "__main__":
    main()
