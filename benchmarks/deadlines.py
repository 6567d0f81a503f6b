"""Claim: with mixed deadlines and more requests than can be answered, `dftsp` completes more of
them in time than `fcfs`, `static-batch` and `no-batch`, on real workers.

One device of two threads, eight requests at a time, Poisson arrivals at 1.5 times what it can
answer, deadlines of 1.5 to 12 times what a request takes alone; every policy gets the same
arrivals, in turn, with the same requests refused that nobody could answer in time. Predictions are
from timings made beforehand. `python benchmarks/deadlines.py [--models demo:fp32,smollm2:q4g32ad]
[--rounds 2] [--count 100] [--load 1.5]`.
"""
# ruff: noqa: I001

import argparse
import os
import platform
from typing import Any

import edgewise  # noqa: F401 (before torch: it says how torch's threads wait)
import torch
from claims import finish

from edgewise import kernels
from edgewise.batching import POLICIES
from edgewise.cli.devices import describe_machine
from edgewise.clusters import Cluster
from edgewise.models.checkpoint import open_checkpoint
from edgewise.runtime.admission import Admission
from edgewise.runtime.local import start_local
from edgewise.specs import Workload
from edgewise.studies.dftsp.processes import measured_pace, plan_alone, run_policy
from edgewise.studies.dftsp.traffic import Traffic, share_in_time

WORK = Workload(64, 64, sequences=8)


def compare(model: str, scheme: str, traffic: Traffic, rounds: int) -> dict[str, Any]:
    """Shares in time of every policy, by round."""
    spec, cluster = open_checkpoint(model).spec, Cluster.of_this_machine(8 * 10**9, 2)
    plan = plan_alone(spec, model, cluster.source, scheme)
    shares: dict[str, list[float]] = {name: [] for name in POLICIES}
    refused: dict[str, list[float]] = {name: [] for name in POLICIES}
    with start_local(cluster) as workers:
        pace = measured_pace(workers, cluster, spec, plan, WORK)
        for seed in range(rounds):
            asked = traffic.draw(pace, seed)
            for name, policy in POLICIES.items():
                served = run_policy(workers, plan, WORK, Admission(policy, pace), asked)
                shares[name].append(share_in_time(served))
                refused[name].append(sum(one.refused for one in served) / len(served))
                print(f"{model}, {name}: {shares[name][-1]:.0%} in time, "
                      f"{refused[name][-1]:.0%} refused", flush=True)  # fmt: skip
    return {"model": model, "scheme": scheme, "in_time": shares, "refused": refused,
            "round_seconds": pace.round_seconds, "prompt_64_seconds": pace.prompt_seconds(64),
            "requests_per_second": traffic.load / traffic.seconds_a_request(pace)}  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--models", default="demo:fp32,smollm2:q4g32ad")
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--count", type=int, default=100)
    parser.add_argument("--load", type=float, default=1.5)
    args = parser.parse_args()
    load, traffic = os.getloadavg()[0], Traffic(args.load, args.count)
    pairs = [pair.split(":") for pair in args.models.split(",")]
    rows = [compare(*pair, traffic, args.rounds) for pair in pairs]
    failed = list[str]()
    for row in rows:
        means = {name: sum(x) / len(x) for name, x in row["in_time"].items()}
        best = max(share for name, share in means.items() if name != "dftsp")
        if means["dftsp"] <= best:
            failed.append(f"{row['model']}: {means['dftsp']:.0%} in time, another {best:.0%}")
    finish("deadlines", {
        "machine": f"{describe_machine()['processor']}, {os.cpu_count()} cores", "load": load,
        "kernels": kernels.instruction_set(), "python": platform.python_version(),
        "torch": torch.__version__, "arrivals": args.load, "requests": args.count, "rows": rows,
    }, failed)  # fmt: skip


if __name__ == "__main__":
    main()
