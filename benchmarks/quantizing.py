"""Claim: a model of 135 M weights is quantized in seconds, in any scheme; one of 7 B in minutes.

All matrices of SmolLM2-135M's shape, random and in bf16, or those of a checkpoint's folder, with
random second moments of their inputs: seconds of the clock and of all cores, with the kernels;
without them, in torch, for one block; GPTQ for the blocks' matrices. 7 B is in proportion to the
weights.
`python benchmarks/quantizing.py [--schemes q4g64a,...] [--threads 2] [--model FOLDER]
[--gptq q4g64a] [--sets avx512-vnni,avx2]`.
"""
# ruff: noqa: I001

import argparse
import json
import os
import platform
import subprocess
import sys
import time
from collections.abc import Sequence
from typing import Any

import edgewise  # noqa: F401 (before torch: it says how torch's threads wait)
import torch
from claims import finish
from torch import Tensor

from edgewise import kernels
from edgewise.cli.devices import describe_machine
from edgewise.models.checkpoint import open_checkpoint
from edgewise.quantization.rounding import quantize_matrix
from edgewise.schemes import get_scheme

SCHEMES = "q2g16ad,q2g32ad,q3g16d,q3g32ad,q4g32ad,q4g64a,q5g32ad,q6g16d,q6g32d,q8g32,q8g32d"
BLOCKS = 30
BLOCK = ((960, 576), (576, 576), (3072, 576), (576, 1536))
TABLE = (49_152, 576)
SEVEN = 7e9
MOST = {"nearest": 4.0, "gptq": 120.0}  # seconds
SEVEN_MOST = 240.0  # seconds of 7 B, rounded to nearest


def random_matrices(blocks: int, table: bool) -> list[Tensor]:
    shapes = [*BLOCK * blocks, *([TABLE] if table else [])]
    return [torch.empty(shape, dtype=torch.bfloat16).normal_(std=0.02) for shape in shapes]


def matrices_of(folder: str) -> list[Tensor]:
    checkpoint = open_checkpoint(folder)
    tensors = [checkpoint.read(name) for name in checkpoint.tensors()]
    return [x for x in tensors if x.ndim == 2]


def row(matrices: Sequence[Tensor], scheme: str, method: str) -> dict[str, object]:
    inputs = {
        columns: torch.randn(4 * columns, columns) for columns in {x.shape[1] for x in matrices}
    }
    moments = {columns: x.T @ x / len(x) for columns, x in inputs.items()}
    quantize_matrix(matrices[0], get_scheme(scheme), method, moments[matrices[0].shape[1]])
    weights = sum(x.numel() for x in matrices)
    began, worked = time.perf_counter(), time.process_time()
    for matrix in matrices:
        quantize_matrix(matrix, get_scheme(scheme), method, moments[matrix.shape[1]])
    seconds, worked = time.perf_counter() - began, time.process_time() - worked
    by = kernels.instruction_set() or "torch"
    per_seven = seconds / weights * SEVEN
    print(
        f"{scheme:8} {method:8} {by:12} {weights / 1e6:6.1f} M weights: {seconds:6.2f} s "
        f"({worked:6.2f} of all cores); 7 B: {per_seven / 60:6.1f} min",
        flush=True,
    )
    return {
        "scheme": scheme, "method": method, "kernels": by, "weights": weights, "seconds": seconds,
        "core_seconds": worked,
        "seven_billion_seconds": per_seven,
    }  # fmt: skip


def without_kernels(arguments: argparse.Namespace) -> list[dict[str, object]]:
    """One block's matrices in a process that has no library."""
    command = [sys.executable, __file__, "--blocks", "1", "--gptq", "", "--sets", ""]
    command += ["--schemes", arguments.schemes, "--threads", str(arguments.threads)]
    environment = os.environ | {"EDGEWISE_KERNELS": "off"}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    *lines, last = done.stdout.splitlines()
    print("\n".join(lines), flush=True)
    rows: list[dict[str, object]] = json.loads(last)["rows"]
    return rows


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--schemes", default=SCHEMES)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--model", help="a folder; default: random weights")
    parser.add_argument("--gptq", default="q4g64a", help="schemes")
    parser.add_argument("--sets", default=kernels.instruction_set() or "", help="instruction sets")
    parser.add_argument("--blocks", type=int, default=BLOCKS, help="of random weights; 1: no table")
    return parser.parse_args()


def main() -> None:
    asked = arguments()
    torch.set_num_threads(asked.threads)
    torch.manual_seed(0)
    matrices = (
        matrices_of(asked.model) if asked.model else random_matrices(asked.blocks, asked.blocks > 1)
    )
    rows, best = [], kernels.instruction_set()
    for name in asked.sets.split(",") if best else [""]:
        if best and name and not kernels.use(name):
            raise SystemExit(f"this machine has no {name}")
        rows += [row(matrices, scheme, "nearest") for scheme in asked.schemes.split(",")]
    if best:
        kernels.use(best)
        rows += without_kernels(asked)
    table = max(x.shape[0] for x in matrices)  # looking rows up is no product: not for GPTQ
    products = [x for x in matrices if x.shape[0] < table]
    rows += [row(products, scheme, "gptq") for scheme in asked.gptq.split(",") if scheme]
    machine = describe_machine()
    finish("quantizing", {
        "machine": f"{machine['processor']}, {os.cpu_count()} cores",
        "kernels": best, "threads": asked.threads, "load": os.getloadavg()[0],
        "python": platform.python_version(), "torch": torch.__version__, "rows": rows,
    }, too_slow(rows) if asked.threads > 1 and best else [])  # fmt: skip


def too_slow(rows: Sequence[dict[str, Any]]) -> list[str]:
    """What takes longer than is claimed, with two threads and kernels."""
    return [
        f"{row['scheme']} by {row['method']}: {row['seconds']:.1f} s"
        for row in rows
        if row["kernels"] != "torch"
        and (
            row["seconds"] > MOST[row["method"]]
            or (row["method"] == "nearest" and row["seven_billion_seconds"] > SEVEN_MOST)
        )
    ]


if __name__ == "__main__":
    main()
