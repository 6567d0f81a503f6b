"""Claim: 16 requests that ask for four adapters answer in one batch with the tokens that each has
alone, at 0.7 of the rate of 16 plain ones or more.

SmolLM2 with random LoRA adapters of rank 8 on all matrices, on one device and cut over two, in
q4g32ad and fp32, on workers of one thread each; prompts of 8 to 53 tokens, 48 new ones, greedy.
Rates are those of all new tokens from asking to the last one, plain and adapted by turns, the
median of the rounds.
`python benchmarks/adapters.py [--rank 8] [--rounds 3] [--scheme q4g32ad,fp32]`.
"""
# ruff: noqa: I001

import argparse
import contextlib
import os
import platform
import time
from statistics import median

import edgewise  # noqa: F401 (before torch: it says how torch's threads wait)
import torch
from batching import plan_of
from claims import finish

from edgewise import kernels
from edgewise.adapters import parts_of
from edgewise.adapters.matrices import columns_of
from edgewise.adapters.served import Adapter
from edgewise.cli.devices import describe_machine
from edgewise.clusters import Cluster, Device, Network
from edgewise.kernels import Addition
from edgewise.models.checkpoint import open_checkpoint
from edgewise.models.config import DecoderConfig
from edgewise.runtime.coordinator.adapters import Adapters
from edgewise.runtime.coordinator.coordinator import Coordinator
from edgewise.runtime.engine import Request
from edgewise.runtime.local import start_local
from edgewise.specs import Workload

MODEL, REQUESTS, ADAPTERS, NEW = "smollm2", 16, 4, 48
SHARE = 0.7


def random_adapter(config: DecoderConfig, rank: int, seed: int) -> Adapter:
    """One that changes answers."""
    made = torch.Generator().manual_seed(seed)
    blocks = []
    for _ in range(config.num_blocks):
        added = dict[str, list[Addition]]()
        for matrix, parts in parts_of(config).items():
            columns = columns_of(config, matrix)
            for _, first, rows in parts:
                down = torch.randn(rank, columns, generator=made) / columns**0.5
                up = torch.randn(rank, rows, generator=made) * 0.15
                added.setdefault(matrix, []).append(Addition(first, down, up))
        blocks.append(added)
    return Adapter(tuple(blocks))


def requests_of(adapted: bool) -> list[Request]:
    made = torch.Generator().manual_seed(7)
    return [
        Request(
            tuple(torch.randint(100, 40000, (8 + 3 * number,), generator=made).tolist()),
            NEW,
            adapter=f"a{number % ADAPTERS}" if adapted else "",
        )
        for number in range(REQUESTS)
    ]


def answers(engine: Coordinator, requests: list[Request]) -> tuple[list[list[int]], float]:
    """Tokens of each, and of all a second, prompts included."""
    began = time.monotonic()
    said = {engine.submit(request): list[int]() for request in requests}
    while tokens := engine.step():
        for token in tokens:
            said[token.request].append(token.id)
    return list(said.values()), sum(map(len, said.values())) / (time.monotonic() - began)


def open_on(stack: contextlib.ExitStack, devices: int, scheme: str, rank: int) -> Coordinator:
    spec, config = open_checkpoint(MODEL).spec, open_checkpoint(MODEL).config
    named = {f"a{seed}": random_adapter(config, rank, seed) for seed in range(ADAPTERS)}
    room = sum(adapter.block_bytes for adapter in named.values())
    names = tuple(f"device-{number}" for number in range(devices))
    cluster = Cluster(
        tuple(Device(name, 8 * 10**9) for name in names), (), names[0], (Network(names),)
    )
    work = Workload(64, NEW, REQUESTS, devices, adapter_bytes=room)
    workers = stack.enter_context(start_local(cluster))
    plan = plan_of(spec, spec.name, names, scheme)
    return Coordinator(workers, MODEL, plan, work, adapters=Adapters(workers, room, named))


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--rank", type=int, default=8)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--scheme", default="q4g32ad,fp32")
    parser.add_argument("--devices", default="1,2")
    args = parser.parse_args()
    load, failed, rows = os.getloadavg()[0], list[str](), list[dict[str, object]]()
    for scheme in args.scheme.split(","):
        for devices in map(int, args.devices.split(",")):
            with contextlib.ExitStack() as stack:
                engine = open_on(stack, devices, scheme, args.rank)
                plain, adapted = requests_of(False), requests_of(True)
                alone = [answers(engine, [request])[0][0] for request in adapted]
                rates: dict[bool, list[float]] = {False: [], True: []}
                for _ in range(args.rounds):
                    as_it_is, rate = answers(engine, plain)
                    rates[False].append(rate)
                    together, rate = answers(engine, adapted)
                    rates[True].append(rate)
                mixed = plain[:8] + adapted[8:]
                both = answers(engine, mixed)[0]
            same = sum(a == b for a, b in zip(together, alone, strict=True))
            same_mixed = sum(a == b for a, b in zip(both, as_it_is[:8] + alone[8:], strict=True))
            unlike = sum(a != b for a, b in zip(as_it_is, alone, strict=True))
            share = median(rates[True]) / median(rates[False])
            print(
                f"{scheme} on {devices}: {same} of {REQUESTS} as alone, {same_mixed} among plain "
                f"ones, {unlike} unlike plain; {median(rates[False]):.1f} tokens/s plain, "
                f"{median(rates[True]):.1f} adapted, {share:.2f}",
                flush=True,
            )
            rows.append({"scheme": scheme, "devices": devices, "same": same, "mixed": same_mixed,
                         "unlike": unlike, "plain": rates[False], "adapted": rates[True],
                         "share": share})  # fmt: skip
            if not same == same_mixed == unlike == REQUESTS:
                failed.append(
                    f"{scheme} on {devices}: {same}, {same_mixed}, {unlike} of {REQUESTS}"
                )
            if share < SHARE:
                failed.append(f"{scheme} on {devices}: {share:.2f} of the plain rate")
    machine = describe_machine()
    finish("adapters", {
        "machine": f"{machine['processor']}, {os.cpu_count()} cores", "load": load,
        "kernels": kernels.instruction_set(), "python": platform.python_version(),
        "torch": torch.__version__, "model": MODEL, "rank": args.rank, "rows": rows,
    }, failed)  # fmt: skip


if __name__ == "__main__":
    main()
