"""Claim: decoding runs near what memory delivers, in any number of bits: time per token falls with
every bit removed.

The 1.1 B shape (22 blocks, hidden 2048, FFN 5632, 32 heads, 4 of keys and values, 32,000 tokens)
and one block of a 7 B shape, random weights. Weights read per second are compared with what a plain
reading loop reaches over a buffer larger than the cache, in turn with it. "Around" is what a block
takes beyond its matrix products. `python benchmarks/decode.py [--schemes q4g64,...]
[--threads 1,2] [--batches 1,8] [--context 128] [--kv-cache int8]`.
"""
# ruff: noqa: I001

import argparse
import os
import platform
import time
from collections.abc import Callable
from dataclasses import replace
from itertools import pairwise
from statistics import median
from typing import Any

import edgewise  # noqa: F401 (before torch: it says how torch's threads wait)
import torch
from claims import finish

from edgewise import kernels
from edgewise.cli.devices import describe_machine
from edgewise.kernels.block import run_blocks
from edgewise.models.cache import Segment
from edgewise.models.config import DecoderConfig, Rope
from edgewise.models.shard import Shard, random_shard
from edgewise.quantization.linear import PackedLinear
from edgewise.quantization.packed import random_packed
from edgewise.schemes import CacheType, get_scheme

SCHEMES = "q2g64,q3g64,q4g64,q5g64,q6g64,q8g64,bf16"
READ_BYTES = 512 * 2**20
SECONDS = 1.5  # of a measurement
ROUNDS = 3
AROUND = "q2g64"  # where matrices take the least, other things show the most

TINY = DecoderConfig(
    architecture="LlamaForCausalLM", vocab_size=32_000, hidden_size=2048, ffn_size=5632,
    num_blocks=22, num_heads=32, num_kv_heads=4, head_dim=64, max_context=2048, norm="rms",
    norm_eps=1e-5, activation="silu", gated=True, rope=Rope(theta=10000.0), windows=(None,) * 22,
    tied=False, embed_size=2048, names="llama",
)  # fmt: skip
SEVEN = replace(
    TINY, hidden_size=4096, ffn_size=11_008, num_blocks=1, num_kv_heads=32, head_dim=128,
    embed_size=4096, windows=(None,),
)  # fmt: skip


def read_bandwidth(buffer: torch.Tensor, threads: int) -> float:
    """GB/s of a plain reading loop."""
    return buffer.nbytes / kernels.read_seconds(buffer.data_ptr(), buffer.nbytes, threads) / 1e9


def typical(run: Callable[[], object], seconds: float = SECONDS) -> float:
    """Median seconds of a call."""
    run()
    times, end = list[float](), time.perf_counter() + seconds
    while time.perf_counter() < end or len(times) < 3:
        began = time.perf_counter()
        run()
        times.append(time.perf_counter() - began)
    return median(times)


def step(shard: Shard, batch: int, context: int) -> Callable[[], object]:
    """One token for each of `batch` sequences that have `context` behind them."""
    segments = [Segment(row, context, 1) for row in range(batch)]
    ids, states = torch.arange(batch), torch.randn(batch, shard.config.hidden_size)
    x = ids if shard.start == 0 else states
    return lambda: shard.forward(x, segments)


def weights_read(shard: Shard) -> int:
    """Bytes of every matrix that a token is multiplied with: all but the table of embeddings."""
    table = sum(x.nbytes for x in shard.layers[0].buffers()) or sum(
        x.nbytes for x in shard.layers[0].parameters()
    )
    return shard.weight_bytes - (table if shard.start == 0 else 0)


def measure(config: DecoderConfig, what: str, scheme: str, args: argparse.Namespace,
            buffer: torch.Tensor) -> list[dict[str, Any]]:  # fmt: skip
    start, end = (0, config.num_layers) if what == "1.1B" else (1, 2)
    room = {"slots": max(args.batches), "context": args.context + 1}
    shard = random_shard(config, start, end, scheme, device="cpu", cache=args.kv_cache, **room)
    rows = []
    for threads in args.threads:
        torch.set_num_threads(threads)
        for batch in args.batches:
            tries: list[tuple[float, float]] = []
            for _ in range(ROUNDS):
                bandwidth = max(read_bandwidth(buffer, threads) for _ in range(3))
                tries.append((typical(step(shard, batch, args.context), SECONDS / 2), bandwidth))
            seconds = min(x for x, _ in tries)
            bandwidth = max(x for _, x in tries)
            rate = weights_read(shard) / seconds / 1e9
            row = {"shape": what, "scheme": scheme, "threads": threads, "batch": batch,
                   "ms": seconds * 1e3, "tokens_per_second": batch / seconds, "GB_per_second": rate,
                   "read_GB_per_second": bandwidth, "share": rate / bandwidth}  # fmt: skip
            rows.append(row)
            print(f"{what} {scheme:6} {threads} threads, batch {batch}: {seconds * 1e3:7.2f} ms, "
                  f"{batch / seconds:6.1f} tokens/s, {rate:5.1f} of {bandwidth:5.1f} GB/s "
                  f"({rate / bandwidth:.0%})", flush=True)  # fmt: skip
    return rows


def around_products(args: argparse.Namespace) -> dict[str, float]:
    """Microseconds that a block takes beyond its matrix products: all blocks in one call, less one
    product with as many weights, in turn."""
    shard = random_shard(TINY, 1, 23, AROUND, device="cpu", slots=1, context=args.context + 1)
    weights = sum(rows * columns for rows, columns in TINY.spec("").layers[1].matrices)
    shape = (TINY.num_blocks * weights // TINY.hidden_size, TINY.hidden_size)
    packed = random_packed(get_scheme(AROUND), shape, torch.device("cpu"))
    matrix, x = PackedLinear(packed).native(), torch.randn(1, TINY.hidden_size)
    blocks, lanes = shard.blocks.parts[0].native, [(0, args.context, 1)]
    assert matrix is not None  # there are kernels: this is about them
    turn = (torch.ones(1, TINY.head_dim), torch.zeros(1, TINY.head_dim))
    extra_us = {}
    for threads in args.threads:
        torch.set_num_threads(threads)
        extra = []
        for _ in range(100):
            began = time.perf_counter()
            run_blocks(blocks, x, lanes, turn)
            middle = time.perf_counter()
            kernels.linear(matrix, x)
            extra.append((middle - began) - (time.perf_counter() - middle))
        extra_us[f"{threads} threads"] = round(median(extra) / TINY.num_blocks * 1e6, 1)
    print(f"around the products of a block, us: {extra_us}")
    return extra_us


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--schemes", default=SCHEMES.split(","), type=lambda x: x.split(","))
    for name, default in (("threads", "1,2"), ("batches", "1")):
        numbers = [int(x) for x in default.split(",")]
        parser.add_argument(
            f"--{name}", default=numbers, type=lambda x: [int(y) for y in x.split(",")]
        )
    parser.add_argument("--context", default=128, type=int)
    parser.add_argument("--kv-cache", default=CacheType.FULL, type=CacheType)
    args = parser.parse_args()
    buffer = torch.zeros(READ_BYTES, dtype=torch.uint8).random_(256)
    rows = []
    for config, what in ((TINY, "1.1B"), (SEVEN, "block of 7B")):
        for scheme in args.schemes:
            rows += measure(config, what, scheme, args, buffer)
    machine = describe_machine()
    finish("decode", {
        "machine": f"{machine['processor']}, {os.cpu_count()} cores",
        "kernels": kernels.instruction_set(), "python": platform.python_version(),
        "torch": torch.__version__, "context": args.context,
        "kv_cache": args.kv_cache, "rows": rows,
        "around": around_products(args),
    }, slower_with_fewer_bits(rows))  # fmt: skip


def slower_with_fewer_bits(rows: list[dict[str, Any]]) -> list[str]:
    """Where a token takes no less time with a bit less, of the whole model's shape."""
    kept = [x for x in rows if x["shape"] == "1.1B" and x["batch"] == 1]
    pairs = pairwise(sorted(kept, key=lambda x: x["threads"]))  # schemes come by rising bits
    return [
        f"{a['scheme']} {a['ms']:.2f} ms, {b['scheme']} {b['ms']:.2f} with {a['threads']} threads"
        for a, b in pairs
        if a["threads"] == b["threads"] and a["ms"] >= b["ms"]
    ]


if __name__ == "__main__":
    main()
