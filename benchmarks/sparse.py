"""Claim: where two of every four weights are zero, a token takes less time than in the same bits
with all weights stored.

The 1.1 B shape of `decode.py`, random weights, every instruction set that the machine has, schemes
in turn. Beside each the time that a plain loop takes to read as many bytes, and a dense scheme of
as many bytes. `python benchmarks/sparse.py [--bits 4] [--threads 1,2] [--sets avx512-vnni,avx2]`.
"""
# ruff: noqa: I001

import argparse
import os
import platform
from typing import Any

import edgewise  # noqa: F401 (before torch: it says how torch's threads wait)
import torch
from claims import finish
from decode import READ_BYTES, ROUNDS, TINY, read_bandwidth, step, typical, weights_read

from edgewise import kernels
from edgewise.cli.devices import describe_machine
from edgewise.models.shard import Shard, random_shard

SETS = "avx512-vnni,avx2,neon-i8mm,neon-dotprod"
CONTEXT = 128
SECONDS = 0.75  # of a measurement


def schemes_of(bits: int) -> list[str]:
    """Sparse, dense, and dense with as many bits a weight, where there is one."""
    same = {4: ["q3g32d"], 6: ["q4g32d"], 8: ["q5g32d"]}
    return [f"q{bits}g32ds", f"q{bits}g32d", *same.get(bits, [])]


def measure(
    shards: dict[str, Shard], name: str, threads: int, buffer: torch.Tensor
) -> list[dict[str, Any]]:
    torch.set_num_threads(threads)
    seconds, bandwidth = dict.fromkeys(shards, float("inf")), 0.0
    for _ in range(ROUNDS):
        bandwidth = max(bandwidth, *(read_bandwidth(buffer, threads) for _ in range(3)))
        for scheme, shard in shards.items():
            took = typical(step(shard, 1, CONTEXT), SECONDS)
            seconds[scheme] = min(seconds[scheme], took)
    rows = []
    for scheme, shard in shards.items():
        size, ms = weights_read(shard), seconds[scheme] * 1e3
        row = {"set": name, "threads": threads, "scheme": scheme, "ms": ms,
               "MB": size / 1e6, "GB_per_second": size / seconds[scheme] / 1e9,
               "read_GB_per_second": bandwidth, "ms_to_read": size / bandwidth / 1e6}  # fmt: skip
        rows.append(row)
        print(f"{name:12} {threads} threads {scheme:8} {ms:7.2f} ms, {row['MB']:.0f} MB, "
              f"{row['GB_per_second']:5.1f} of {bandwidth:5.1f} GB/s; reading alone "
              f"{row['ms_to_read']:.2f} ms", flush=True)  # fmt: skip
    return rows


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--bits", default=4, type=int)
    parser.add_argument("--threads", default="1,2")
    parser.add_argument("--sets", default=SETS)
    args = parser.parse_args()
    buffer = torch.zeros(READ_BYTES, dtype=torch.uint8).random_(256)
    shards = {
        scheme: random_shard(
            TINY, 0, TINY.num_layers, scheme, device="cpu", slots=1, context=CONTEXT + 1
        )
        for scheme in schemes_of(args.bits)
    }
    rows = []
    for name in filter(kernels.use, args.sets.split(",")):
        for threads in map(int, args.threads.split(",")):
            rows += measure(shards, name, threads, buffer)
    machine = describe_machine()
    finish("sparse", {
        "machine": f"{machine['processor']}, {os.cpu_count()} cores",
        "python": platform.python_version(), "torch": torch.__version__, "context": CONTEXT,
        "rows": rows,
    }, slower(rows, args.bits))  # fmt: skip


def slower(rows: list[dict[str, Any]], bits: int) -> list[str]:
    """Where zeros save no time."""
    ms = {(x["scheme"], x["set"], x["threads"]): x["ms"] for x in rows}
    sparse, dense = schemes_of(bits)[:2]
    return [
        f"{name}, {threads} threads: {took:.2f} ms, all stored {ms[dense, name, threads]:.2f}"
        for (scheme, name, threads), took in ms.items()
        if scheme == sparse and took >= ms[dense, name, threads]
    ]


if __name__ == "__main__":
    main()
