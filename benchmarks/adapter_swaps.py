"""Claim: an adapter is replaced without a pause between beneath 16 clients, and no request fails or
gets other tokens than one of the two that its name means then.

SmolLM2 in q4g32ad on two devices of one cluster file, rank 8 on all matrices; clients ask the plain
model, an adapter that stays and the one that changes, by turns, greedy, and again as soon as they
are answered. `python benchmarks/adapter_swaps.py [--seconds 60] [--clients 16]`.
"""
# ruff: noqa: I001

import argparse
import asyncio
import json
import os
import tempfile
import time
import urllib.request
from pathlib import Path
from statistics import median

import edgewise  # noqa: F401 (before torch: it says how torch's threads wait)
import torch
from claims import finish
from served import Server, serving, stream

from edgewise import kernels
from edgewise.adapters import AdapterConfig
from edgewise.adapters.files import save_adapter
from edgewise.adapters.matrices import low_ranks
from edgewise.cli.devices import describe_machine
from edgewise.models.checkpoint import open_checkpoint

MODEL, NEW = "smollm2", 24
CLUSTER = """
source = "a"
[[device]]
name = "a"
memory = "400 MB"
[[device]]
name = "b"
memory = "400 MB"
[[network]]
devices = ["a", "b"]
bandwidth = "1 Gbps"
latency = "0.2 ms"
"""
PROMPTS = ("The harbour lay quiet", "Bread is made of", "A map of the town shows")


@torch.no_grad()
def write(folder: Path, seed: int) -> None:
    opened = open_checkpoint(MODEL)
    adapter, made = AdapterConfig(rank=8, seed=seed), torch.Generator().manual_seed(seed)
    blocks = range(opened.config.num_blocks)
    added = [low_ranks(opened.config, number, adapter) for number in blocks]
    for parts in added:
        for low in parts.values():
            low.up.copy_(torch.randn(low.up.shape, generator=made) * 0.05)
    save_adapter(folder, added, adapter, opened.config, MODEL, opened.spec.digest)


def swap(server: Server, path: str) -> float:
    """Seconds until requests mean the new one."""
    body = {"lora_name": "changing", "lora_path": path, "load_inplace": True}
    url = f"http://{server.host}:{server.port}/v1/load_lora_adapter"
    asked = urllib.request.Request(
        url, json.dumps(body).encode(), {"Content-Type": "application/json"}
    )
    began = time.monotonic()
    with urllib.request.urlopen(asked, timeout=120):
        return time.monotonic() - began


async def ask(server: Server, adapter: str, prompt: str) -> tuple[str, str]:
    """Text, and what went wrong."""
    model = f"{MODEL}:{adapter}" if adapter else MODEL
    body = {"model": model, "prompt": prompt, "temperature": 0, "max_tokens": NEW}
    said = await stream(server.host, server.port, body)
    return said.text, said.error if said.status == 200 else f"status {said.status} {said.error}"


Right = dict[tuple[str, str], set[str]]


async def client(server: Server, number: int, until: float, right: Right, failed: list[str]) -> int:
    """How many were answered."""
    turn = number
    while time.monotonic() < until:
        what = ("", "stays", "changing")[turn % 3], PROMPTS[turn // 3 % len(PROMPTS)]
        text, error = await ask(server, *what)
        if error or text not in right[what]:
            failed.append(error or f"{what}: {text!r}")
        turn += 1
    return turn - number


async def load_on(
    server: Server, clients: int, seconds: float
) -> tuple[int, list[float], Right, list[str]]:
    right: Right = {}
    for path in ("one", "two"):
        await asyncio.to_thread(swap, server, path)
        for name in ("", "stays", "changing"):
            for prompt in PROMPTS:
                right.setdefault((name, prompt), set()).add((await ask(server, name, prompt))[0])
    until, failed, took = time.monotonic() + seconds, list[str](), list[float]()
    asking = [client(server, number, until, right, failed) for number in range(clients)]
    answered = asyncio.gather(*asking)
    while not answered.done() and time.monotonic() < until:
        took.append(await asyncio.to_thread(swap, server, ("one", "two")[len(took) % 2]))
    return sum(await answered), took, right, failed


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--seconds", type=float, default=60.0)
    parser.add_argument("--clients", type=int, default=16)
    args = parser.parse_args()
    load = os.getloadavg()[0]
    with tempfile.TemporaryDirectory() as made:
        folder = Path(made)
        (folder / "cluster.toml").write_text(CLUSTER)
        for seed, name in enumerate(("stays", "one", "two")):
            write(folder / "shelf" / name, seed)
        shelf = folder / "shelf"
        options = ("--adapter", f"stays={shelf / 'stays'}", "--adapters-from", str(shelf))
        size = ("--sequences", str(args.clients), "--prompt-tokens", "16", "--new-tokens", str(NEW))
        where = ("--scheme", "q4g32ad", "--cluster", str(folder / "cluster.toml"))
        with serving("serve", MODEL, *where, *size, *options) as server:
            answered, took, right, failed = asyncio.run(load_on(server, args.clients, args.seconds))
    unlike = all(len(right["changing", prompt]) == 2 for prompt in PROMPTS)
    print(
        f"{answered} requests of {args.clients} clients in {args.seconds:.0f} s, {len(took)} swaps "
        f"of {median(took):.2f} s, {len(failed)} failed"
    )
    machine = describe_machine()
    finish("adapter_swaps", {
        "machine": f"{machine['processor']}, {os.cpu_count()} cores", "load": load,
        "kernels": kernels.instruction_set(), "answered": answered, "swaps": len(took),
        "swap_seconds": took,
    }, failed[:5] + ([] if unlike else ["the two adapters say the same"]))  # fmt: skip


if __name__ == "__main__":
    main()
