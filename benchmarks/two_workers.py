"""Claim: two workers that compute at the same time on one machine lose no more than a fifth to each
other, however many threads each has, and one that waits for its turn costs no core.

SmolLM2's blocks in 4 bits, a token after 64: steps per second of one process, and of two at the
same time together, with 1 and 2 threads each, in turns; then the core seconds that a process takes
for a second's wait after a step. `python benchmarks/two_workers.py`.
"""
# ruff: noqa: I001

import json
import os
import platform
import subprocess
import sys
import time
from statistics import median

import edgewise  # noqa: F401 (before torch: it says how torch's threads wait)
import torch

from edgewise import kernels
from edgewise.cli.devices import describe_machine
from edgewise.models.cache import Segment
from edgewise.models.shard import load_shard

SECONDS, ROUNDS = 2.0, 5
MOST_LOST, MOST_WAITING = 0.2, 0.02


def worker() -> None:
    """Answers "threads" lines with steps per second, "wait" with core seconds."""
    shard = load_shard("smollm2", 1, 31, schemes="q4g32ad", context=128)
    shard.cache.clear()
    x, segments = torch.randn(1, 576), [Segment(0, 64, 1)]
    print("ready", flush=True)
    for line in sys.stdin:
        if line == "wait\n":
            shard.forward(x, segments)
            began = time.process_time()
            time.sleep(1.0)
            print(time.process_time() - began, flush=True)
            continue
        torch.set_num_threads(int(line))
        count, end = 0, time.perf_counter() + SECONDS
        while time.perf_counter() < end:
            shard.forward(x, segments)
            count += 1
        print(count / SECONDS, flush=True)


def said_by(process: subprocess.Popen[str]) -> str:
    """Its next line."""
    assert process.stdout is not None
    return process.stdout.readline().strip()


def main() -> None:
    command = [sys.executable, __file__, "--worker"]
    pipe = subprocess.PIPE
    workers = [subprocess.Popen(command, stdin=pipe, stdout=pipe, text=True) for _ in range(2)]
    for process in workers:
        assert said_by(process) == "ready"

    def ask(processes: list[subprocess.Popen[str]], what: str) -> float:
        for process in processes:
            assert process.stdin is not None
            process.stdin.write(f"{what}\n")
            process.stdin.flush()
        return sum(float(said_by(process)) for process in processes)

    rows = []
    try:
        for threads in (1, 2):
            pairs = [(ask(workers[:1], str(threads)), ask(workers, str(threads)))
                     for _ in range(ROUNDS)]  # fmt: skip
            alone, both = (median(x) for x in zip(*pairs, strict=True))
            rows.append({"threads": threads, "alone": alone, "both": both})
            print(f"{threads} threads: one {alone:.0f} steps/s, together {both:.0f}", flush=True)
        waiting = ask(workers[:1], "wait")
        print(f"waiting for a second: {waiting * 1e3:.1f} ms of a core")
    finally:
        for process in workers:
            process.communicate(timeout=30)
    machine = describe_machine()
    print(json.dumps({
        "benchmark": "two_workers", "machine": f"{machine['processor']}, {os.cpu_count()} cores",
        "kernels": kernels.instruction_set(), "load": os.getloadavg()[0],
        "python": platform.python_version(), "torch": torch.__version__, "rows": rows,
        "waiting_seconds": waiting,
    }))  # fmt: skip
    best = max(row["alone"] for row in rows)
    if waiting > MOST_WAITING or any(row["both"] < (1 - MOST_LOST) * best for row in rows):
        sys.exit("the claim does not hold")


if __name__ == "__main__":
    worker() if sys.argv[1:] == ["--worker"] else main()
