"""Claim: what the cost model says of a token is what running processes take, within 15 %, where
five exits of windows vote on it, and where private adapters are asked for over a link.

SmolLM2 on two devices of this machine, each twice as slow as a core, joined by a link without
latency and by one of 100 Mbps and 5 ms; cut in the middle for votes, the blocks on the other device
for private adapters on q, k and v, of rank 8. Prompts of 32 tokens, 32 new ones; one request, and
four together. Beside each the same plan without, and what the simulator says.
`python benchmarks/predicted_adapters.py [votes private] [--scheme q4g32ad,fp32] [--rounds 3]`.
"""
# ruff: noqa: I001

import argparse
import os
import tempfile
from collections.abc import Iterator, Sequence
from itertools import product
from pathlib import Path
from statistics import median

import edgewise  # noqa: F401 (before torch: it says how torch's threads wait)
import torch
from claims import finish
from prediction import steady, warm_up
from private import drawn
from votes import random_windows

from edgewise import kernels
from edgewise.adapters.private import PrivateAdapter, private_adapter
from edgewise.adapters.served import Adapter
from edgewise.cli.devices import describe_machine
from edgewise.clusters import Cluster, Device, Link
from edgewise.costs import CostModel
from edgewise.models.checkpoint import open_checkpoint
from edgewise.opening.adapters import with_private, with_room
from edgewise.plans import Plan, Stage
from edgewise.profiling import Grid, measure
from edgewise.runtime.coordinator.adapters import Adapters
from edgewise.runtime.coordinator.coordinator import Coordinator
from edgewise.runtime.engine import Request
from edgewise.runtime.local import start_local
from edgewise.runtime.coordinator.workers import Workers
from edgewise.simulation import simulate_plan, together
from edgewise.specs import Vote, Workload

MODEL, HERE, THERE, SLOWDOWN = "smollm2", "here", "there", 2.0
NETWORKS = ((0.0, 1000.0), (5.0, 100.0))  # ms, Mbps
PROMPT, NEW, RANK, OFF = 32, 32, 8, 0.15
NAME = "windows"


def cluster_of(network: tuple[float, float]) -> Cluster:
    latency, rate = network
    devices = tuple(Device(name, 8 * 10**9, slowdown=SLOWDOWN) for name in (HERE, THERE))
    ends = (HERE, THERE), (THERE, HERE)
    links = tuple(Link(a, b, rate * 1e6 / 8, latency / 1e3) for a, b in ends)
    return Cluster(devices, links, HERE)


def plan_of(scheme: str, *ends: tuple[str, int]) -> Plan:
    spec, at, stages = open_checkpoint(MODEL).spec, 0, list[Stage]()
    for device, end in ends:
        stages.append(Stage(device, at, end, (scheme,) * (end - at)))
        at = end
    return Plan(spec.name, spec.digest, spec.num_layers, tuple(stages))


def predicted(workers: Workers, plan: Plan, work: Workload) -> tuple[float, float]:
    """Seconds of a token of every request, by the cost model and by the simulator."""
    spec = open_checkpoint(MODEL).spec
    profile = measure(workers, MODEL, spec, (plan.schemes[0],), Grid.around(work))
    costs = CostModel(spec, workers.cluster, profile, work)
    asked = together(work.sequences, work.prompt_tokens, work.new_tokens)
    times = [list(x.token_seconds) for x in simulate_plan(costs, plan, asked).requests]
    return costs.estimate(plan).round_seconds(), steady(times)


def measured(engine: Coordinator, request: Request, count: int, rounds: int) -> float:
    warm_up(engine, request.prompt)
    took = []
    for _ in range(rounds):
        came = {engine.submit(request): list[float]() for _ in range(count)}
        while not engine.idle:
            for token in engine.step():
                came[token.request].append(token.at)
        took.append(steady(list(came.values())))
    return median(took)


def compared(
    workers: Workers, plan: Plan, work: Workload, rounds: int, adapters: dict[str, Adapter],
    private: PrivateAdapter | None,
) -> list[float]:  # fmt: skip
    """Predicted, simulated and measured seconds of a token."""
    held = Adapters(workers, work.adapter_bytes, adapters, work.exit_bytes)
    said = predicted(workers, plan, work)
    engine = Coordinator(workers, MODEL, plan, work, private=private, adapters=held)
    prompt = tuple(10 + i % 200 for i in range(PROMPT))
    request = Request(prompt, NEW, adapter=next(iter(adapters), ""))
    return [*said, measured(engine, request, work.sequences, rounds)]


def cases(parts: Sequence[str], scheme: str, folder: Path) -> Iterator[tuple[str, Plan, object]]:
    """What is compared: a name, a plan, and what adapters there are."""
    checkpoint = open_checkpoint(MODEL)
    last = checkpoint.spec.num_layers
    if "votes" in parts:
        yield (
            "votes",
            plan_of(scheme, (HERE, 16), (THERE, last)),
            {NAME: random_windows(checkpoint.config, Vote.CONFIDENCE)},
        )
    if "private" in parts:
        drawn(RANK, folder)
        split = plan_of(scheme, (HERE, 1), (THERE, last - 1), (HERE, last))
        yield "private", split, private_adapter(folder, checkpoint, HERE)


def row_of(
    network: tuple[float, float], plan: Plan, count: int, added: object, rounds: int
) -> tuple[list[float], list[float]]:
    """So many requests over such a link, without what is added and with it."""
    config, plain = open_checkpoint(MODEL).config, Workload(PROMPT, NEW, sequences=count)
    adapters = added if isinstance(added, dict) else {}
    private = added if isinstance(added, PrivateAdapter) else None
    full = with_private(with_room(plain, adapters.values()), private, config)
    with start_local(cluster_of(network)) as workers:
        without = compared(workers, plan, plain, rounds, {}, None)
        return without, compared(workers, plan, full, rounds, adapters, private)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("parts", nargs="*", default=["votes", "private"])
    parser.add_argument("--scheme", default="q4g32ad,fp32")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--requests", default="1,4")
    args, load, failed = parser.parse_args(), os.getloadavg()[0], list[str]()
    counts, rows = [int(x) for x in args.requests.split(",")], list[dict[str, object]]()
    with tempfile.TemporaryDirectory() as name:
        wanted = [(s, *x) for s in args.scheme.split(",") for x in cases(args.parts, s, Path(name))]
        for network, (scheme, what, plan, added), count in product(NETWORKS, wanted, counts):
            without, given = row_of(network, plan, count, added, args.rounds)
            where = f"{scheme}, {what}, {network[0]:g} ms, {count} at a time"
            print(where, *(
                f"{name}: predicted {1000 * x[0]:.2f}, simulated {1000 * x[1]:.2f}, "
                f"measured {1000 * x[2]:.2f} ms ({x[2] / x[0]:.2f})"
                for name, x in (("without", without), ("with", given))
            ), sep="; ", flush=True)  # fmt: skip
            rows.append({"what": where, "without": without, "with": given})
            if abs(given[2] / given[0] - 1) > OFF:
                failed.append(f"{where}: {given[2] / given[0]:.2f} of what was predicted")
    finish("predicted_adapters", {
        "machine": f"{describe_machine()['processor']}, {kernels.instruction_set()}", "load": load,
        "torch": torch.__version__, "model": MODEL, "slowdown": SLOWDOWN, "rows": rows,
    }, failed)  # fmt: skip


if __name__ == "__main__":
    main()
