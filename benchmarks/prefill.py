"""Claim: prompts run faster in few bits than in bf16.

The 1.1 B shape with random weights, 128 and 512 tokens, per scheme; and for one matrix, where the
crossover lies between multiplying with the packed matrix itself and making it whole first
(`kernels.most_tokens`). `python benchmarks/prefill.py [schemes]`.
"""
# ruff: noqa: I001

import os
import platform
import sys

import edgewise  # noqa: F401 (before torch: it says how torch's threads wait)
import torch
import torch.nn.functional as F
from claims import finish
from decode import TINY, typical

from edgewise import kernels
from edgewise.cli.devices import describe_machine
from edgewise.models.cache import Segment
from edgewise.models.shard import random_shard
from edgewise.quantization.linear import PackedLinear
from edgewise.quantization.packed import random_packed
from edgewise.schemes import get_scheme

SCHEMES = ("q2g32ad", "q4g32ad", "q4g64", "q6g16d", "q8g32d", "bf16")
LENGTHS = (128, 512)
FEW = (1, 2, 4, 8, 16, 24, 32, 64)


def prefill(scheme: str) -> list[dict[str, object]]:
    shard = random_shard(TINY, 0, TINY.num_layers, scheme, device="cpu", slots=1, context=512)
    rows = []
    for length in LENGTHS:
        ids, segments = torch.arange(length), [Segment(0, 0, length)]
        run = lambda: shard.forward(ids, segments, [length - 1])  # noqa: B023, E731
        seconds = typical(run, 4.0)
        rows.append({"scheme": scheme, "tokens": length, "tokens_per_second": length / seconds})
        print(f"{scheme:6} {length} tokens: {length / seconds:6.1f} tokens/s", flush=True)
    return rows


def crossover(scheme: str) -> dict[str, object]:
    """Milliseconds of a product of 5632 x 2048 for a few tokens, both ways."""
    packed = random_packed(get_scheme(scheme), (5632, 2048), torch.device("cpu"))
    packing = PackedLinear(packed).native()
    assert packing is not None  # there are kernels: this is about them
    table = {}
    for tokens in FEW:
        x = torch.randn(tokens, 2048, dtype=torch.bfloat16)
        direct = typical(lambda: kernels.linear(packing, x.float()), 0.3)  # noqa: B023
        whole = typical(
            lambda: F.linear(x, kernels.dequantize(packing, 0, 5632)),  # noqa: B023
            0.3,
        )
        table[tokens] = {"packed_ms": direct * 1e3, "whole_ms": whole * 1e3}
        print(
            f"{scheme:6} {tokens:3} tokens: packed {direct * 1e3:.2f}, whole {whole * 1e3:.2f} ms"
        )
    return {"scheme": scheme, "milliseconds": table}


def main() -> None:
    schemes = sys.argv[1].split(",") if len(sys.argv) > 1 else SCHEMES
    crossings = [crossover(x) for x in schemes if x.startswith("q")]
    rows = [row for scheme in schemes for row in prefill(scheme)]
    machine = describe_machine()
    rates = {(row["scheme"], row["tokens"]): float(str(row["tokens_per_second"])) for row in rows}
    failed = [
        f"{length} tokens in {scheme}: {rate:.0f} tokens/s, {rates['bf16', length]:.0f} in bf16"
        for (scheme, length), rate in rates.items()
        if ("bf16", length) in rates and rate < rates["bf16", length]
    ]
    finish("prefill", {
        "machine": f"{machine['processor']}, {os.cpu_count()} cores",
        "kernels": kernels.instruction_set(), "python": platform.python_version(),
        "torch": torch.__version__, "most_tokens": str(kernels.most_tokens(None)), "rows": rows,
        "crossover": crossings,
    }, failed)  # fmt: skip


if __name__ == "__main__":
    main()
