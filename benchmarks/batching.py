"""Claim: eight requests at once on one device get three times the tokens per second of one alone,
and four devices in a row reach 85 % of what their slowest stage allows, as the simulator says.

SmolLM2 through the engine, greedy, no prefix shared. One device: 2 threads, recipes in turn, one
request and eight in alternating rounds. Four devices: emulated ones compute in turns, eight times
slower than the machine, so that together they take half of one core; 4 bits, links of 1 ms and
1,000 Mbps. Rates are of the time in which all requests are being answered. The bound is the slowest
stage's own seconds per batch. The simulator has a profile made on the same devices just before
each run, since how quick a machine is changes within minutes where others use it too; of three such
rounds the medians are compared. Whatever else the machine does in a step weighs eight times on a
device that is eight times slower: what the stages were predicted to take is beside the median and
the mean of what they took, and where these two differ, so will the rates.
`python benchmarks/batching.py [--schemes 4bit,8bit] [--model smollm2]`.
"""
# ruff: noqa: I001

import argparse
import os
import platform
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import accumulate, pairwise
from statistics import fmean, median
from typing import Any

import edgewise  # noqa: F401 (before torch: it says how torch's threads wait)
import torch
from claims import finish

from edgewise import kernels
from edgewise.cli.devices import describe_machine
from edgewise.clusters import Cluster, Device, Link
from edgewise.costs import CostModel
from edgewise.models.checkpoint import open_checkpoint
from edgewise.plans import Plan, Stage
from edgewise.profiling import Grid, measure
from edgewise.runtime.coordinator.coordinator import Coordinator
from edgewise.runtime.engine import Request
from edgewise.runtime.events import Event, Returned
from edgewise.runtime.local import open_engine, start_local
from edgewise.schemes import get_scheme
from edgewise.simulation import simulate_plan, together
from edgewise.specs import ModelSpec, Workload

PROMPT, NEW, ROUNDS = 32, 128, 3
ONE, EIGHT = 1, 8
PIPELINE = Workload(PROMPT, NEW, sequences=16, micro_batches=8)
SLOWDOWN = 8.0
NAMES = ("a", "b", "c", "d")
MORE, EFFICIENT, SIMULATED = 3.0, 0.85, 0.10


@dataclass
class Run:
    """When tokens came, by request, and what came back when from the stages."""

    times: list[list[float]]
    back: list[Returned] = field(default_factory=list)

    @property
    def window(self) -> tuple[float, float]:
        """While all requests are being answered."""
        return max(row[0] for row in self.times), min(row[-1] for row in self.times)

    @property
    def tokens_per_second(self) -> float:
        begun, ended = self.window
        return sum(begun < at <= ended for row in self.times for at in row) / (ended - begun)

    @property
    def stages(self) -> list[tuple[float, ...]]:
        """Seconds of each stage, batch by batch of the window."""
        begun, ended = self.window
        return [*zip(*(x.seconds for x in self.back if begun < x.at <= ended), strict=True)]

    @property
    def busiest_share(self) -> float:
        """Of the window, the slowest stage's own time."""
        begun, ended = self.window
        return max(map(sum, self.stages)) / (ended - begun)


def run(engine: Coordinator, requests: int) -> Run:
    prompts = [tuple(5 + (7 * n + i) % 300 for i in range(PROMPT)) for n in range(requests)]
    numbers = [engine.submit(Request(prompt, NEW)) for prompt in prompts]
    came: dict[int, list[float]] = {number: [] for number in numbers}
    back: list[Returned] = []

    def listen(event: Event) -> None:
        if isinstance(event, Returned):
            back.append(event)

    engine.listen(listen)
    for tokens in iter(engine.step, []):
        for token in tokens:
            came[token.request].append(token.at)
    return Run(list(came.values()), back)


def plan_of(spec: ModelSpec, model: str, names: Sequence[str], scheme: str) -> Plan:
    """The layers in parts of equally many bytes to be read, as nearly as layers can be cut."""
    read = [layer.read_bytes(get_scheme(scheme), 1) for layer in spec.layers]
    before = [0.0, *accumulate(read)]
    wanted = [i * before[-1] / len(names) for i in range(len(names) + 1)]
    cuts = [min((abs(x - y), n) for n, y in enumerate(before))[1] for x in wanted]
    stages = tuple(
        Stage(name, a, b, (scheme,) * (b - a))
        for name, (a, b) in zip(names, pairwise(cuts), strict=True)
    )
    return Plan(model, spec.digest, spec.num_layers, stages)


def on_one_device(model: str, scheme: str) -> dict[str, Any]:
    spec = open_checkpoint(model).spec
    cluster = Cluster.of_this_machine(8 * 10**9, 2)
    plan = plan_of(spec, model, (cluster.source,), scheme)
    work = Workload(PROMPT, NEW, sequences=EIGHT)
    engine = open_engine(model, plan, cluster, work, spec=spec)
    rates: dict[int, list[float]] = {ONE: [], EIGHT: []}
    try:
        for _ in range(ROUNDS):
            for requests, measured in rates.items():
                measured.append(run(engine, requests).tokens_per_second)
    finally:
        engine.close()
    one, eight = (median(measured) for measured in rates.values())
    print(f"{scheme}: one request {one:.0f} tokens/s, eight {eight:.0f}, {eight / one:.2f} times",
          flush=True)  # fmt: skip
    return {"scheme": scheme, "one": one, "eight": eight, "ratio": eight / one, "rounds": rates}


@dataclass(frozen=True)
class Foreseen:
    """What a profile made just before a run says of it: tokens per second, and seconds of each
    stage; and the run."""

    rate: float
    stages: tuple[float, ...]
    run: Run

    def told(self) -> dict[str, Any]:
        stages = [
            {"predicted": 1e3 * of_it, "median": 1e3 * median(took), "mean": 1e3 * fmean(took)}
            for of_it, took in zip(self.stages, self.run.stages, strict=True)
        ]
        return {"simulated": self.rate, "tokens_per_second": self.run.tokens_per_second,
                "share": self.run.busiest_share, "stage_ms": stages}  # fmt: skip


def foreseen(model: str, spec: ModelSpec, cluster: Cluster, plan: Plan) -> Foreseen:
    with start_local(cluster) as workers:
        schemes = tuple(dict.fromkeys(plan.schemes))
        profile = measure(workers, model, spec, schemes, Grid.around(PIPELINE))
        ran = run(Coordinator(workers, model, plan, PIPELINE), PIPELINE.sequences)
    costs = CostModel(spec, cluster, profile, PIPELINE)
    outcome = simulate_plan(costs, plan, together(PIPELINE.sequences, PROMPT, NEW))
    simulated = Run([list(x.token_seconds) for x in outcome.requests])
    stages = tuple(stage.decode_seconds for stage in costs.estimate(plan).stages)
    return Foreseen(simulated.tokens_per_second, stages, ran)


def on_four_devices(model: str, scheme: str) -> dict[str, Any]:
    spec = open_checkpoint(model).spec
    devices = tuple(Device(name, 8 * 10**9, 1, SLOWDOWN, kind=name) for name in NAMES)
    links = tuple(Link(a, b, 1000e6 / 8, 0.001) for a in NAMES for b in NAMES if a != b)
    cluster = Cluster(devices, links, NAMES[0])
    plan = plan_of(spec, model, NAMES, scheme)
    rounds = [foreseen(model, spec, cluster, plan) for _ in range(ROUNDS)]
    real = median(x.run.tokens_per_second for x in rounds)
    efficiency = median(x.run.busiest_share for x in rounds)
    simulated = median(x.rate for x in rounds)
    print(f"four devices, {scheme}: {real:.1f} tokens/s, {efficiency:.0%} of the bound, simulated "
          f"{simulated:.1f}", flush=True)  # fmt: skip
    return {"scheme": scheme, "tokens_per_second": real, "efficiency": efficiency,
            "simulated": simulated, "rounds": [x.told() for x in rounds]}  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--schemes", default=["4bit", "8bit"], type=lambda x: x.split(","))
    parser.add_argument("--model", default="smollm2")
    args = parser.parse_args()
    load = os.getloadavg()[0]
    rows = [on_one_device(args.model, scheme) for scheme in args.schemes]
    pipeline = on_four_devices(args.model, args.schemes[0])
    failed = [f"{row['scheme']}: {row['ratio']:.2f} times" for row in rows if row["ratio"] < MORE]
    if pipeline["efficiency"] < EFFICIENT:
        failed.append(f"four devices at {pipeline['efficiency']:.0%} of the bound")
    off = pipeline["simulated"] / pipeline["tokens_per_second"] - 1
    if abs(off) > SIMULATED:
        failed.append(f"simulated {off:+.0%} off")
    machine = describe_machine()
    finish("batching", {
        "machine": f"{machine['processor']}, {os.cpu_count()} cores", "load": load,
        "kernels": kernels.instruction_set(), "python": platform.python_version(),
        "torch": torch.__version__, "model": args.model, "one_device": rows,
        "four_devices": pipeline,
    }, failed)  # fmt: skip


if __name__ == "__main__":
    main()
