"""Claim: from the call that sends a token's hidden states (2048 float32) to the return of the call
that receives them, in another process over loopback TCP, encrypted, a median of 150 us passes.

Between two processes, a tensor there and back: half of the time of a round trip, over Unix sockets,
TCP, and TCP with CURVE; then the same with a prompt's 256 x 2048. `python benchmarks/hops.py`.
"""
# ruff: noqa: I001

import os
import subprocess
import sys
import tempfile
import time
from statistics import median, quantiles
from typing import Any

import edgewise  # noqa: F401 (before torch: it says how torch's threads wait)
import msgspec
import torch
from claims import finish

from edgewise.cli.devices import describe_machine
from edgewise.runtime.messages import Echo, Peer, Stop
from edgewise.runtime.transport.zeromq import Keys, ZeroMQ

MOST_SECONDS = 150e-6
TRIPS = {1: 2000, 256: 100}  # by rows
WARM_UP = 100
WAYS = {
    "ipc": ("ipc://{folder}/{name}", False),
    "tcp": ("tcp://127.0.0.1:*", False),
    "tcp + CURVE": ("tcp://127.0.0.1:*", True),
}


def transport(way: str, folder: str, name: str) -> ZeroMQ:
    bind, keyed = WAYS[way]
    return ZeroMQ(name, bind.format(folder=folder, name=name), Keys.make() if keyed else None)


def mirror(way: str, folder: str) -> None:
    """The other process: sends back whatever comes."""
    mine = transport(way, folder, "mirror")
    print(msgspec.json.encode(mine.peer).decode(), flush=True)
    mine.introduce({"bench": msgspec.json.decode(sys.stdin.readline(), type=Peer)})
    while True:
        envelope = mine.receive(60)
        if envelope is None or isinstance(envelope.message, Stop):
            return mine.close()
        mine.send("bench", Echo(), envelope.tensor)


def measure(mine: ZeroMQ, rows: int) -> dict[str, float]:
    tensor, seconds = torch.randn(rows, 2048), []
    for _ in range(WARM_UP + TRIPS[rows]):
        began = time.perf_counter()
        mine.send("mirror", Echo(), tensor)
        envelope = mine.receive(10)
        seconds.append((time.perf_counter() - began) / 2)
        assert envelope is not None and envelope.tensor is not None
        assert torch.equal(envelope.tensor, tensor)
    rest = seconds[WARM_UP:]
    return {"rows": rows, "median": median(rest), "p90": quantiles(rest, n=10)[-1]}


def pair(way: str, folder: str) -> list[dict[str, float]]:
    """Two processes, and all sizes between them."""
    command, pipe = [sys.executable, __file__, way, folder], subprocess.PIPE
    process = subprocess.Popen(command, stdin=pipe, stdout=pipe, text=True)
    assert process.stdin is not None and process.stdout is not None
    mine = transport(way, folder, "bench")
    try:
        mine.introduce({"mirror": msgspec.json.decode(process.stdout.readline(), type=Peer)})
        process.stdin.write(msgspec.json.encode(mine.peer).decode() + "\n")
        process.stdin.close()
        results = [measure(mine, rows) for rows in TRIPS]
        mine.send("mirror", Stop())
        process.wait(10)
        return results
    finally:
        process.kill()
        process.wait()
        mine.close()


def main() -> None:
    results: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory() as folder:
        for way in WAYS:
            for row in pair(way, folder):
                results.append({"way": way, **row})
                hop, slow = row["median"] * 1e6, row["p90"] * 1e6
                print(f"{way:12} {row['rows']:3} x 2048: {hop:5.0f} us, p90 {slow:5.0f}")
    hop = next(r["median"] for r in results if r["way"] == "tcp + CURVE" and r["rows"] == 1)
    failed = [f"a hop took {hop * 1e6:.0f} us"] if hop > MOST_SECONDS else []
    machine = f"{describe_machine()['processor']}, {os.cpu_count()} cores"
    document = {"machine": machine, "load": os.getloadavg()[0], "results": results}
    finish("hops", document, failed)


if __name__ == "__main__":
    mirror(*sys.argv[1:]) if sys.argv[1:] else main()
