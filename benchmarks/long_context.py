"""Claim: with 4,096 tokens behind it, a step of the 1.1 B shape spends less than half of its time
on attention.

That was claimed of 8,192 at first, and missed with AVX-512 (50 to 60 %, dev/LOG.md). A token's step
in 4 bits, random weights, 32 query heads on 4 of keys and values; keys and values in bf16 and in 8
bits. The share of attention is what a step takes beyond one that has nothing behind it.
`python benchmarks/long_context.py [--contexts 1024,8192] [--threads 1,2]`.
"""
# ruff: noqa: I001

import argparse
import os
import platform
from dataclasses import replace

import edgewise  # noqa: F401 (before torch: it says how torch's threads wait)
import torch
from claims import finish
from decode import TINY, step, typical

from edgewise import kernels
from edgewise.cli.devices import describe_machine
from edgewise.models.shard import random_shard
from edgewise.schemes import CacheType

SCHEME, SECONDS, ROUNDS = "q4g32ad", 0.7, 3
HALF, MOST = 4096, 0.5  # tokens behind, and the share of a step that is attention then


def main() -> None:
    parser = argparse.ArgumentParser()
    for name, default in (("contexts", "1024,2048,4096,8192"), ("threads", "1,2")):
        split = [int(x) for x in default.split(",")]
        parser.add_argument(
            f"--{name}", default=split, type=lambda x: [int(y) for y in x.split(",")]
        )
    args = parser.parse_args()
    longest, rows = max(args.contexts), []
    config = replace(TINY, max_context=longest + 1)
    for cache in CacheType:
        shard = random_shard(
            config, 0, config.num_layers, SCHEME, device="cpu", slots=1, context=longest + 1,
            cache=cache,
        )  # fmt: skip
        for threads in args.threads:
            torch.set_num_threads(threads)
            seconds_at = {
                context: min(typical(step(shard, 1, context), SECONDS) for _ in range(ROUNDS))
                for context in (0, *args.contexts)
            }
            for context in args.contexts:
                seconds, share = seconds_at[context], 1 - seconds_at[0] / seconds_at[context]
                attention = (seconds - seconds_at[0]) / config.num_blocks
                rows.append({"cache": cache, "threads": threads, "context": context,
                             "ms": seconds * 1e3, "share": share,
                             "attention_us_a_block": attention * 1e6})  # fmt: skip
                print(
                    f"{cache:5} cache, {threads} threads, {context:5} behind: {seconds * 1e3:6.2f} "
                    f"ms, attention {share:.0%}, {attention * 1e6:.0f} us a block", flush=True,
                )  # fmt: skip
    machine = describe_machine()
    failed = [
        f"{row['share']:.0%} with {row['context']} behind, {row['threads']} threads"
        for row in rows
        if row["context"] <= HALF and row["share"] >= MOST
    ]
    finish("long_context", {
        "kernels": kernels.instruction_set(),
        "machine": f"{machine['processor']}, {os.cpu_count()} cores", "load": os.getloadavg()[0],
        "python": platform.python_version(), "torch": torch.__version__, "rows": rows,
    }, failed)  # fmt: skip


if __name__ == "__main__":
    main()
