"""Claim: on a real network interface, with encryption and every header, private adapters of rank 8
take at most a sixth of what every layer's hidden state would take down and up of a request alone,
and at most a sixteenth of what it would take of sixteen requests at once.

Two network namespaces whose interfaces send 60 Mbps (the source) and 100 (the other device, which
joins it as `edgewise join` does), with packets of 1,500 bytes; SmolLM2 as its file has it. Bytes
are the kernel's count of the source's interface, both ways, acknowledgements and signs of life
among them, of the tokens of answers. What hidden states of all layers would take is measured by
adapters of rank 192, whose 3 r numbers are as many as a hidden state has. Needs Linux and root.
`python benchmarks/private_wire.py`.
"""
# ruff: noqa: I001

import json
import os
import sys
import tempfile
import time
from pathlib import Path

import edgewise  # noqa: F401 (before torch: it says how torch's threads wait)
from claims import finish
from private import CLOUD, MODEL, PHONE, drawn
from two_machines import joined

from edgewise.adapters.private import private_adapter
from edgewise.cli.devices import describe_machine
from edgewise.clusters import Device
from edgewise.models.checkpoint import open_checkpoint
from edgewise.plans import Plan, Stage
from edgewise.runtime.coordinator.coordinator import Coordinator
from edgewise.runtime.engine import Request
from edgewise.runtime.live import start_live
from edgewise.schemes import STORED
from edgewise.specs import Workload

RANKS = (None, 8, 16, 192)
COUNTS, TOKENS, SKIPPED = (1, 16), 32, 4
MOST = {1: 1 / 6, 16: 1 / 16}
SECONDS, JOIN_SECONDS = 280.0, 60.0
MBPS = {PHONE: 60.0, CLOUD: 100.0}
STATISTICS = Path("/sys/class/net/eth0/statistics")


def counted() -> int:
    return sum(int((STATISTICS / name).read_text()) for name in ("tx_bytes", "rx_bytes"))


def split() -> Plan:
    spec = open_checkpoint(MODEL).spec
    ends = ((PHONE, 0, 1), (CLOUD, 1, spec.num_layers - 1),
            (PHONE, spec.num_layers - 1, spec.num_layers))  # fmt: skip
    stages = tuple(Stage(name, a, b, (STORED,) * (b - a)) for name, a, b in ends)
    return Plan(spec.name, spec.digest, spec.num_layers, stages)


def cost_of(engine: Coordinator, requests: int) -> tuple[float, float]:
    """Bytes of a token, and its milliseconds, once every request has had some."""
    came = {engine.submit(Request((5 + n, 6, 7), TOKENS)): 0 for n in range(requests)}
    began, before, done = 0.0, 0, 0
    while min(came.values()) < TOKENS - 1:
        for token in engine.step():
            came[token.request] += 1
        if not began and min(came.values()) >= SKIPPED:
            began, before, done = time.monotonic(), counted(), sum(came.values())
    seconds, sent, tokens = time.monotonic() - began, counted() - before, sum(came.values()) - done
    while engine.step():
        continue
    return sent / tokens, 1000 * seconds * requests / tokens


def inside() -> None:
    """On the source."""
    host, checkpoint = sys.stdin.readline().strip(), open_checkpoint(MODEL)
    workers, agents, invitation = start_live(Device(PHONE, 4 * 10**9), host, 0)
    results = []
    with workers, tempfile.TemporaryDirectory() as name:
        print(json.dumps([agents.address.rpartition(":")[2], invitation.token]), flush=True)
        workers.receive(JOIN_SECONDS)
        workers.admit(workers.arrivals.popleft(), agents)
        for rank in RANKS:
            folder = Path(name) / str(rank)
            if rank is not None:
                drawn(rank, folder)
            adapter = private_adapter(folder, checkpoint, PHONE) if rank else None
            work = Workload(64, 64, sequences=max(COUNTS))
            engine = Coordinator(workers, MODEL, split(), work, private=adapter)
            results += [[rank, count, *cost_of(engine, count)] for count in COUNTS]
    print(json.dumps(results), flush=True)


def main() -> None:
    load = os.getloadavg()[0]
    with tempfile.TemporaryDirectory() as cache:
        output = joined(__file__, MBPS, (cache, cache), (), SECONDS, "10.80.0")
    rows = json.loads(output)
    for rank, count, sent, took in rows:
        print(f"rank {rank}, {count} requests: {sent:.0f} bytes and {took:.1f} ms a token")
    sent = {(rank, count): size for rank, count, size, _ in rows}
    shares = {
        count: (sent[8, count] - sent[None, count]) / (sent[192, count] - sent[None, count])
        for count in COUNTS
    }
    failed = [f"{shares[x]:.1%} with {x} requests" for x in COUNTS if shares[x] > MOST[x]]
    finish("private_wire", {
        "machine": describe_machine()["processor"], "load": load, "rows": rows, "shares": shares,
    }, failed)  # fmt: skip


if __name__ == "__main__":
    inside() if "--inside" in sys.argv else main()
