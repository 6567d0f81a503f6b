"""Claim: with mixed deadlines and more requests than can be answered, `dftsp` completes more of
them in time than `fcfs`, `static-batch` and `no-batch`, on real workers.

One device of two threads, eight requests at a time, Poisson arrivals at 1.5 times what it can
answer, deadlines of 1.5 to 12 times what a request takes alone; every policy gets the same
arrivals, in turn, with the same requests refused that nobody could answer in time. Predictions are
from timings made beforehand. With `--http` through `edgewise serve`, a server for each policy, as
streams with `deadline_ms`; the clients' process computes on the same cores. `python
benchmarks/deadlines.py [--models demo:fp32,smollm2:q4g32ad] [--rounds 2] [--count 100]
[--load 1.5] [--http]`.
"""
# ruff: noqa: I001

import argparse
import asyncio
import contextlib
import os
import platform
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import edgewise  # noqa: F401 (before torch: it says how torch's threads wait)
import torch
from claims import finish
from served import Server, serving, stream

from edgewise import kernels
from edgewise.batching import POLICIES
from edgewise.cli.devices import describe_machine
from edgewise.clusters import Cluster
from edgewise.batching.pace import Pace
from edgewise.models.checkpoint import open_checkpoint
from edgewise.models.tokenizer import load_tokenizer
from edgewise.runtime.coordinator.admission import Admission
from edgewise.runtime.local import start_local
from edgewise.specs import Workload
from edgewise.studies.dftsp.processes import measured_pace, plan_alone, run_policy
from edgewise.studies.dftsp.traffic import Incoming, Served, Traffic, share_in_time

WORK = Workload(64, 64, sequences=8)


Answer = Callable[[Sequence[Incoming]], list[Served]]


@contextlib.contextmanager
def on_workers(model: str, scheme: str) -> Iterator[tuple[Pace, dict[str, Answer]]]:
    """How quick they are, and what answers by each policy."""
    spec, cluster = open_checkpoint(model).spec, Cluster.of_this_machine(8 * 10**9, 2)
    plan = plan_alone(spec, model, cluster.source, scheme)
    with start_local(cluster) as workers:
        pace = measured_pace(workers, cluster, spec, plan, WORK)

        def by(policy: str) -> Answer:
            admission = Admission(POLICIES[policy], pace)
            return lambda asked: run_policy(workers, plan, WORK, admission, asked)

        yield pace, {name: by(name) for name in POLICIES}


@contextlib.contextmanager
def over_http(model: str, scheme: str) -> Iterator[tuple[Pace, dict[str, Answer]]]:
    """The same of servers; their workers' pace is measured on others beforehand."""
    with on_workers(model, scheme) as (pace, _):
        pass
    options = ("--scheme", scheme, "--threads", "2", "--memory", "8 GB", "--sequences",
               str(WORK.sequences), "--prompt-tokens", str(WORK.prompt_tokens),
               "--new-tokens", str(WORK.new_tokens))  # fmt: skip
    stops = {str(stop): -100 for stop in load_tokenizer(model).stop_ids}

    def by(server: Server) -> Answer:
        return lambda asked: asyncio.run(stream_arrivals(server, model, stops, asked))

    with contextlib.ExitStack() as started:
        answers = dict[str, Answer]()
        for name in POLICIES:
            command = serving("serve", model, *options, "--policy", name)
            answers[name] = by(started.enter_context(command))
        yield pace, answers


async def stream_arrivals(
    server: Server, model: str, stops: dict[str, int], asked: Sequence[Incoming]
) -> list[Served]:
    began = time.monotonic()

    async def one(incoming: Incoming) -> Served:
        await asyncio.sleep(max(began + incoming.at - time.monotonic(), 0))
        request = incoming.request
        body = {"model": model, "prompt": list(request.prompt), "max_tokens": request.max_tokens,
                "temperature": 0, "logit_bias": stops,
                "deadline_ms": 1000 * (request.deadline or 0)}  # fmt: skip
        said = await stream(server.host, server.port, body)
        refused = "the deadline of" in said.error  # at once, or after it had waited
        if said.error and not refused:
            raise SystemExit(f"a request failed: {said.status} {said.error}")
        return Served(incoming, time.monotonic() - began, refused=refused)

    return list(await asyncio.gather(*map(one, asked)))


def compare(model: str, scheme: str, traffic: Traffic, rounds: int, http: bool) -> dict[str, Any]:
    """Shares in time of every policy, by round."""
    shares: dict[str, list[float]] = {name: [] for name in POLICIES}
    refused: dict[str, list[float]] = {name: [] for name in POLICIES}
    with (over_http if http else on_workers)(model, scheme) as (pace, answers):
        for seed in range(rounds):
            asked = traffic.draw(pace, seed)
            for name, answer in answers.items():
                served = answer(asked)
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
    parser.add_argument("--http", action="store_true")
    args = parser.parse_args()
    load, traffic = os.getloadavg()[0], Traffic(args.load, args.count)
    pairs = [pair.split(":") for pair in args.models.split(",")]
    rows = [compare(model, scheme, traffic, args.rounds, args.http) for model, scheme in pairs]
    failed = list[str]()
    for row in rows:
        means = {name: sum(x) / len(x) for name, x in row["in_time"].items()}
        best = max(share for name, share in means.items() if name != "dftsp")
        if means["dftsp"] <= best:
            failed.append(f"{row['model']}: {means['dftsp']:.0%} in time, another {best:.0%}")
    finish("deadlines", {
        "machine": f"{describe_machine()['processor']}, {os.cpu_count()} cores", "load": load,
        "kernels": kernels.instruction_set(), "python": platform.python_version(),
        "torch": torch.__version__, "arrivals": args.load, "http": args.http,
        "requests": args.count, "rows": rows,
    }, failed)  # fmt: skip


if __name__ == "__main__":
    main()
