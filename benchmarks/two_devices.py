"""Claim: a model cut over two devices of one thread each answers one request as quickly as one such
device with all of it (95 % of its rate), and eight requests 1.8 times as quickly.

Two worker processes on this machine, no emulated links, layers cut in halves of equal bytes; one
worker process with one thread. One request and eight, by turns, as the file stores its weights.
`python benchmarks/two_devices.py [--model FILE.gguf]`, SmolLM2 or another file, such as those of
the 1.1B shape that benchmarks/peers/llama_cpp.py leaves.
"""
# ruff: noqa: I001

import argparse
import contextlib
import os
import platform
from statistics import median

import edgewise  # noqa: F401 (before torch: it says how torch's threads wait)
import torch
from batching import plan_of, run
from claims import finish

from edgewise import kernels
from edgewise.cli.devices import describe_machine
from edgewise.clusters import Cluster, Device, Network
from edgewise.models.checkpoint import open_checkpoint
from edgewise.runtime.local import open_engine
from edgewise.specs import Workload

PROMPT, NEW = 32, 128
REQUESTS = 8
ONE, MANY = 0.95, 1.8


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--model", default="smollm2")
    parser.add_argument("--scheme", default="stored")
    parser.add_argument("--rounds", type=int, default=3)
    args = parser.parse_args()
    load = os.getloadavg()[0]
    spec = open_checkpoint(args.model).spec
    rates: dict[tuple[int, int], list[float]] = {}
    with contextlib.ExitStack() as stack:
        engines = {}
        for count in (1, 2):
            names = tuple(f"device-{number}" for number in range(count))
            devices = tuple(Device(name, 8 * 10**9) for name in names)
            cluster = Cluster(devices, (), names[0], (Network(names),))
            work = Workload(PROMPT, NEW, sequences=REQUESTS, micro_batches=count)
            plan = plan_of(spec, spec.name, names, args.scheme)
            engines[count] = open_engine(args.model, plan, cluster, work, spec=spec)
            stack.callback(engines[count].close)
        for _ in range(args.rounds):
            for count, engine in engines.items():
                for requests in (1, REQUESTS):
                    rate = run(engine, requests).tokens_per_second
                    rates.setdefault((count, requests), []).append(rate)
    usual = {key: median(measured) for key, measured in rates.items()}
    one, many = usual[2, 1] / usual[1, 1], usual[2, REQUESTS] / usual[1, REQUESTS]
    print(f"one request: {usual[1, 1]:.1f} tokens/s on one device, {usual[2, 1]:.1f} on two, "
          f"{one:.2f}")  # fmt: skip
    print(f"eight: {usual[1, REQUESTS]:.1f} on one, {usual[2, REQUESTS]:.1f} on two, {many:.2f}")
    machine, failed = describe_machine(), []
    if one < ONE:
        failed.append(f"one request at {one:.2f} of one device")
    if many < MANY:
        failed.append(f"eight requests {many:.2f} times as quick")
    finish("two_devices", {
        "machine": f"{machine['processor']}, {os.cpu_count()} cores", "load": load,
        "kernels": kernels.instruction_set(), "python": platform.python_version(),
        "torch": torch.__version__, "model": spec.name, "scheme": args.scheme,
        "rates": [[*key, measured] for key, measured in rates.items()], "one": one, "many": many,
    }, failed)  # fmt: skip


if __name__ == "__main__":
    main()
