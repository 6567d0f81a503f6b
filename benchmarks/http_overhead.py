"""Claim: HTTP, its server and its scheduling cost at most 5 % of the bare engine's tokens per
second with 16 streams.

The same 16 requests, greedy, through an engine in this process and through `edgewise serve` with 16
streaming clients in another, by turns in one run; both have a worker of the same threads, and rest
while the other runs. The clients (one lean process) and the server compute on the same cores as the
worker: what they take is part of the overhead, and told apart by each one's CPU seconds. Both sides
must give the same number of tokens. `--profile FILE` has the server's process profiled by cProfile.

`python benchmarks/http_overhead.py [--model smollm2] [--scheme 4bit] [--streams 16] [--rounds 5]
[--threads 2]`.
"""
# ruff: noqa: I001

import argparse
import asyncio
import json
import os
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import median
from typing import Any

import edgewise  # noqa: F401 (before torch: it says how torch's threads wait)
import torch
from claims import finish
from served import Server, serving, stream_all

from edgewise import kernels
from edgewise.cli.devices import describe_machine
from edgewise.clusters import Cluster
from edgewise.models.checkpoint import open_checkpoint
from edgewise.models.tokenizer import load_tokenizer
from edgewise.runtime.coordinator.coordinator import Coordinator
from edgewise.runtime.engine import Request
from edgewise.runtime.local import open_engine
from edgewise.specs import Workload
from edgewise.studies.dftsp.processes import plan_alone

MOST = 0.05  # of the engine's tokens per second
PROMPT, NEW = 32, 128
GREEDY = {"temperature": 0, "max_tokens": NEW}


@dataclass(frozen=True)
class Run:
    """CPU seconds: of the engine's or the server's process, and of the clients'."""

    tokens: int
    seconds: float
    cpu_seconds: float
    client_seconds: float = 0.0

    @property
    def rate(self) -> float:
        return self.tokens / self.seconds


def prompts(streams: int) -> list[list[int]]:
    """No two share a prefix."""
    return [[500 + 7 * n + 3 * i for i in range(PROMPT)] for n in range(streams)]


def in_process(engine: Coordinator, asked: Sequence[Request]) -> Run:
    began, cpu, tokens = time.monotonic(), time.process_time(), 0
    for request in asked:
        engine.submit(request)
    for came in iter(engine.step, []):
        tokens += len(came)
    return Run(tokens, time.monotonic() - began, time.process_time() - cpu)


class Clients:
    """A process that streams all requests at a time whenever it is told to."""

    def __init__(self, port: int, model: str, streams: int) -> None:
        command = [sys.executable, __file__, "--clients", str(port), "--model", model]
        self._process = subprocess.Popen(
            [*command, "--streams", str(streams)], stdin=-1, stdout=-1, text=True, bufsize=1
        )

    def run(self, server: Server) -> Run:
        assert self._process.stdin and self._process.stdout
        before = server.cpu_seconds
        print(file=self._process.stdin, flush=True)
        said = json.loads(self._process.stdout.readline())
        took = server.cpu_seconds - before
        return Run(said["tokens"], said["seconds"], took, said["cpu_seconds"])

    def close(self) -> None:
        self._process.kill()
        self._process.wait()


def be_clients(port: int, model: str, streams: int) -> None:
    bodies = [{"model": model, "prompt": prompt, **GREEDY} for prompt in prompts(streams)]
    for _ in sys.stdin:
        began, cpu = time.monotonic(), time.process_time()
        said = asyncio.run(stream_all("127.0.0.1", port, bodies))
        if errors := [x.error for x in said if x.error]:
            sys.exit(f"a stream failed: {errors[0]}")
        print(json.dumps({
            "tokens": sum(x.tokens for x in said), "seconds": time.monotonic() - began,
            "cpu_seconds": time.process_time() - cpu,
        }), flush=True)  # fmt: skip


def compare(args: argparse.Namespace) -> tuple[list[Run], list[Run]]:
    """Runs in process, and over HTTP."""
    spec, stop_ids = open_checkpoint(args.model).spec, load_tokenizer(args.model).stop_ids
    cluster = Cluster.of_this_machine(8 * 10**9, args.threads)
    plan = plan_alone(spec, args.model, cluster.source, args.scheme)
    work = Workload(PROMPT, NEW, sequences=args.streams)
    asked = [Request(tuple(x), NEW, stop_ids=stop_ids) for x in prompts(args.streams)]
    options = ("--threads", str(args.threads), "--scheme", args.scheme, "--memory", "8 GB",
               "--prompt-tokens", str(PROMPT), "--new-tokens", str(NEW),
               "--sequences", str(args.streams))  # fmt: skip
    bare, served = list[Run](), list[Run]()
    engine = open_engine(args.model, plan, cluster, work, spec=spec)
    try:
        with serving("serve", args.model, *options, profile=args.profile) as server:
            clients = Clients(server.port, args.model, args.streams)
            try:
                in_process(engine, asked), clients.run(server)
                for _ in range(args.rounds):
                    bare.append(in_process(engine, asked))
                    served.append(clients.run(server))
                    print(f"engine {bare[-1].rate:.0f} tokens/s, server {served[-1].rate:.0f}, "
                          f"{served[-1].rate / bare[-1].rate:.3f}", flush=True)  # fmt: skip
            finally:
                clients.close()
    finally:
        engine.close()
    return bare, served


def per_token(runs: Sequence[Run], what: str) -> float:
    """Microseconds."""
    return 1e6 * median(float(getattr(run, what)) / run.tokens for run in runs)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--model", default="smollm2")
    parser.add_argument("--scheme", default="4bit")
    parser.add_argument("--streams", type=int, default=16)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--profile", default="")
    parser.add_argument("--clients", type=int, default=0, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.clients:
        be_clients(args.clients, args.model, args.streams)
        return
    load = os.getloadavg()[0]
    bare, served = compare(args)
    failed, counts = list[str](), {run.tokens for run in (*bare, *served)}
    overhead = 1 - median(b.rate / a.rate for a, b in zip(bare, served, strict=True))
    if overhead > MOST:
        failed.append(f"{overhead:.1%} of the engine's tokens per second")
    if len(counts) > 1:
        failed.append(f"not the same number of tokens: {sorted(counts)}")
    document: dict[str, Any] = {
        "machine": f"{describe_machine()['processor']}, {os.cpu_count()} cores", "load": load,
        "kernels": kernels.instruction_set(), "torch": torch.__version__, "model": args.model,
        "scheme": args.scheme, "streams": args.streams, "threads": args.threads,
        "engine_rates": [x.rate for x in bare], "server_rates": [x.rate for x in served],
        "overhead": overhead, "engine_cpu_us": per_token(bare, "cpu_seconds"),
        "server_cpu_us": per_token(served, "cpu_seconds"),
        "client_cpu_us": per_token(served, "client_seconds"),
    }  # fmt: skip
    finish("http_overhead", document, failed)


if __name__ == "__main__":
    main()
