"""Claim: layers sent over 50 Mbps to a device without the model come coded where that saves time,
as the formula of edgewise/models/pieces.py says within 15 %, and never later than raw ones.

Two network namespaces whose interfaces send so many Mbps; the device joins as `edgewise join` does.
It is sent a quarter of SmolLM2's blocks, as their file has them and in 4 bits, raw and as by
default, by turns, and lets go of them in between. The formula is told the rate at which raw ones
came, and what this machine takes to code the same bytes: r S / B + S / C + S / D. Needs Linux and
root. `python benchmarks/entropy_coding.py [Mbps]`.
"""
# ruff: noqa: I001

import json
import os
import shutil
import sys
import tempfile
import time
from pathlib import Path
from statistics import median
from unittest.mock import patch

import edgewise  # noqa: F401 (before torch: it says how torch's threads wait)
from claims import finish
from two_machines import joined

from edgewise.cli.devices import describe_machine
from edgewise.clusters import Device
from edgewise.models import layer_store
from edgewise.models.checkpoint import open_checkpoint
from edgewise.models.layer_files import layer_path
from edgewise.models.layer_store import LayerFiles
from edgewise.models.pieces import PIECE_BYTES, compressed, decompressed
from edgewise.plans import Plan, Stage
from edgewise.runtime.coordinator.coordinator import Coordinator
from edgewise.runtime.live import start_live
from edgewise.specs import Workload

MODEL, SOURCE, DEVICE, BLOCKS = "smollm2", "laptop", "board", 8
SCHEMES, ROUNDS = ("bf16", "q4g32ad"), 3
MBPS, WITHIN, SLOWER = 50.0, 0.15, 0.03
SECONDS, JOIN_SECONDS = 500.0, 60.0


def plan(scheme: str, device: str) -> Plan:
    """The first blocks on a device, all else on the source."""
    spec = open_checkpoint(MODEL).spec
    places = (SOURCE, 0, 1), (device, 1, 1 + BLOCKS), (SOURCE, 1 + BLOCKS, spec.num_layers)
    stages = tuple(Stage(name, a, b, (scheme,) * (b - a)) for name, a, b in places)
    if device == SOURCE:
        stages = (Stage(SOURCE, 0, spec.num_layers, (scheme,) * spec.num_layers),)
    return Plan(spec.name, spec.digest, spec.num_layers, stages)


def coding(paths: list[Path], bytes_per_second: float) -> tuple[int, int, float]:
    """Bytes of files, what is left of them over such a link, and seconds to code them and back."""
    size, left, seconds = 0, 0, 0.0
    for content in (path.read_bytes() for path in paths):
        for start in range(0, len(content), PIECE_BYTES):
            piece, began = content[start : start + PIECE_BYTES], time.perf_counter()
            sent, packed = compressed(piece, bytes_per_second)
            decompressed(sent, packed)
            seconds += time.perf_counter() - began
            size, left = size + len(piece), left + len(sent)
    return size, left, seconds


def timed(engine: Coordinator, scheme: str, shards: Path, *, raw: bool) -> float:
    """Seconds until the device has its layers, which it has not kept."""
    engine.apply(plan(scheme, SOURCE))
    shutil.rmtree(shards, ignore_errors=True)
    sent_as = (lambda piece, bytes_per_second: (piece, False)) if raw else compressed
    came = [time.monotonic()]
    with patch.object(layer_store, "compressed", sent_as):
        engine.apply(plan(scheme, DEVICE), lambda layer: came.append(time.monotonic()))
    return came[-1] - came[0]


def inside() -> None:
    """On the source."""
    host, shards = sys.stdin.readline().strip(), Path(sys.stdin.readline().strip())
    workers, agents, invitation = start_live(Device(SOURCE, 4 * 10**9), host, 0)
    files = LayerFiles(open_checkpoint(MODEL))
    rows = []
    with workers:
        print(json.dumps([agents.address.rpartition(":")[2], invitation.token]), flush=True)
        workers.receive(JOIN_SECONDS)
        workers.admit(workers.arrivals.popleft(), agents)
        for scheme in SCHEMES:
            engine = Coordinator(workers, MODEL, plan(scheme, DEVICE), Workload(16, 16))
            runs = [[timed(engine, scheme, shards, raw=raw) for raw in (True, False)]
                    for _ in range(ROUNDS)]  # fmt: skip
            mine = files.of_stage(plan(scheme, DEVICE).stages[1])
            paths = [layer_path(files.folder, x.key) for x in mine]
            raw, sent = (median(x) for x in zip(*runs, strict=True))
            rate = sum(path.stat().st_size for path in paths) / raw
            size, left, seconds = coding(paths, rate)
            formula = left / rate + seconds * (left < size)
            rows.append({"scheme": scheme, "bytes": size, "left": left, "raw_seconds": raw,
                         "seconds": sent, "formula": formula})  # fmt: skip
    print(json.dumps(rows), flush=True)


def main() -> None:
    mbps = float(sys.argv[1]) if len(sys.argv) > 1 else MBPS
    load, rates = os.getloadavg()[0], {SOURCE: mbps, DEVICE: mbps}
    with tempfile.TemporaryDirectory() as folder:
        caches = [f"{folder}/{name}" for name in rates]
        told = [f"{caches[1]}/edgewise/shards"]
        output = joined(__file__, rates, caches, told, SECONDS, "10.81.0")
    rows, failed = json.loads(output), []
    for row in rows:
        off = row["seconds"] / row["formula"] - 1
        print(
            f"{row['scheme']}: {row['bytes'] / 1e6:.1f} MB, {row['left'] / row['bytes']:.3f} left; "
            f"raw {row['raw_seconds']:.2f} s, as sent {row['seconds']:.2f} s, "
            f"formula {row['formula']:.2f} s ({off:+.1%})"
        )
        if abs(off) > WITHIN:
            failed.append(f"{row['scheme']}: {off:+.1%} beside the formula")
        if row["seconds"] > row["raw_seconds"] * (1 + SLOWER):
            failed.append(f"{row['scheme']}: {row['seconds'] / row['raw_seconds']:.2f} times raw")
    finish("entropy_coding", {
        "machine": describe_machine()["processor"], "load": load, "mbps": mbps, "rows": rows,
    }, failed)  # fmt: skip


if __name__ == "__main__":
    inside() if "--inside" in sys.argv else main()
