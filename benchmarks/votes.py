"""Claim: a token that five exits vote on takes at most twice as long as a plain one, though every
block but the last window's runs for two sequences.

SmolLM2 with random adapters of windows of six blocks, of rank 8 on all matrices, on one device, one
worker of one thread; prompts of 16 tokens, 48 new ones, greedy; one request, and eight at a time.
Seconds per new token, plain, with each vote and with LoRA of the same rank by turns, the median of
the rounds.
`python benchmarks/votes.py [--rounds 5] [--scheme q4g32ad,fp32]`.
"""
# ruff: noqa: I001

import argparse
import os
import platform
import time
from dataclasses import replace
from statistics import median

import edgewise  # noqa: F401 (before torch: it says how torch's threads wait)
import torch
from adapters import random_adapter
from batching import plan_of
from claims import finish

from edgewise import kernels
from edgewise.adapters.served import Adapter
from edgewise.cli.devices import describe_machine
from edgewise.clusters import Cluster, Device
from edgewise.models.checkpoint import open_checkpoint
from edgewise.models.config import DecoderConfig
from edgewise.models.exits import ExitMatrices, Exits
from edgewise.opening.adapters import with_room
from edgewise.runtime.coordinator.adapters import Adapters
from edgewise.runtime.coordinator.coordinator import Coordinator
from edgewise.runtime.engine import Request
from edgewise.runtime.local import start_local
from edgewise.specs import Vote, Workload

MODEL, RANK, WINDOW, NEW, TOGETHER = "smollm2", 8, 6, 48, 8
RATIO = 2.0


def random_windows(config: DecoderConfig, vote: Vote) -> Adapter:
    """As `open_adapter` makes it of what `edgewise tune` wrote."""
    blocks, size = random_adapter(config, RANK, 1).blocks, config.hidden_size
    ends = tuple(range(WINDOW, config.num_blocks, WINDOW))
    made = torch.Generator().manual_seed(1)
    exits = tuple(
        ExitMatrices(torch.ones(size), torch.randn(size, size, generator=made) * 0.01)
        for _ in (*ends, config.num_blocks)
    )
    own = tuple(added if block >= ends[-1] else {} for block, added in enumerate(blocks))
    if vote is Vote.LAST:
        return Adapter(own, exits=Exits((), vote, exits[-1:]))
    return Adapter(own, blocks[: ends[-1]], Exits(ends, vote, exits))


def seconds_per_token(engine: Coordinator, requests: list[Request]) -> float:
    """From the first token of the last request on, until one has all of its tokens."""
    said = {engine.submit(request): 0 for request in requests}
    while not all(said.values()):
        for token in engine.step():
            said[token.request] += 1
    began, before = time.monotonic(), sum(said.values())
    while tokens := engine.step():
        for token in tokens:
            said[token.request] += 1
        if max(said.values()) == NEW:
            break
    seconds, new = time.monotonic() - began, sum(said.values()) - before
    while engine.step():
        pass
    return seconds / new


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--scheme", default="q4g32ad,fp32")
    args = parser.parse_args()
    load, failed, rows = os.getloadavg()[0], list[str](), list[dict[str, object]]()
    spec, config = open_checkpoint(MODEL).spec, open_checkpoint(MODEL).config
    named = {str(vote): random_windows(config, vote) for vote in Vote}
    named["lora"] = random_adapter(config, RANK, 2)
    cluster = Cluster((Device("device", 8 * 10**9),), (), "device")
    work = with_room(Workload(16, NEW, TOGETHER), named.values())
    prompt = tuple(range(100, 116))
    for scheme in args.scheme.split(","):
        with start_local(cluster) as workers:
            held = Adapters(workers, work.adapter_bytes, named, work.exit_bytes)
            plan = plan_of(spec, spec.name, ("device",), scheme)
            engine = Coordinator(workers, MODEL, plan, work, adapters=held)
            for count in (1, TOGETHER):
                taken: dict[str, list[float]] = {name: [] for name in ("", *named)}
                for _ in range(args.rounds):
                    for name, seconds in taken.items():
                        request = replace(Request(prompt, NEW), adapter=name)
                        seconds.append(seconds_per_token(engine, [request] * count))
                medians = {name: median(seconds) for name, seconds in taken.items()}
                ratios = {name: x / medians[""] for name, x in medians.items() if name}
                print(
                    f"{scheme}, {count} at a time: {1000 * medians['']:.2f} ms a token plain; "
                    + ", ".join(f"{name} {ratio:.2f}" for name, ratio in ratios.items()),
                    flush=True,
                )
                rows.append({"scheme": scheme, "requests": count, "seconds": taken,
                             "ratios": ratios})  # fmt: skip
                if ratios[Vote.CONFIDENCE] > RATIO:
                    failed.append(f"{scheme}, {count}: {ratios[Vote.CONFIDENCE]:.2f} times plain")
    machine = describe_machine()
    finish("votes", {
        "machine": f"{machine['processor']}, {os.cpu_count()} cores", "load": load,
        "kernels": kernels.instruction_set(), "python": platform.python_version(),
        "torch": torch.__version__, "model": MODEL, "rank": RANK, "window": WINDOW, "rows": rows,
    }, failed)  # fmt: skip


if __name__ == "__main__":
    main()
