"""Claim: rounding what crosses links to bf16 loses less than a thousandth of a nat per token with
seven cuts, 8 bits less than a hundredth, and a two-stage plan over slow links is quicker by what
they save, within 15 %.

KL from the model in float32, whatever text: pieces of Python's documentation, layers as the file
stores them, cuts at equal distances. Then one request's ms per token with the middle cut between
two devices of one thread: predicted at 1 to 1,000 Mbps, measured on emulated links at two of these.
`python benchmarks/wire.py [--model smollm2]`.
"""
# ruff: noqa: I001

import argparse
import os
from dataclasses import replace

import edgewise  # noqa: F401 (before torch: it says how torch's threads wait)
from batching import run
from claims import finish

from edgewise.cli.devices import describe_machine
from edgewise.clusters import Cluster, Device, Network
from edgewise.costs import CostModel
from edgewise.models.checkpoint import open_checkpoint
from edgewise.plans import Plan, Stage
from edgewise.profiles import Profile
from edgewise.profiling import Grid, measure
from edgewise.quality.calibration import ENGLISH, Calibration, sequences
from edgewise.quality.plan_loss import plan_losses
from edgewise.runtime.local import open_engine, start_local
from edgewise.schemes import STORED, Wire
from edgewise.specs import ModelSpec, Workload

TEXT = Calibration(ENGLISH, 16, 128, seed=3)
CUTS, RATES, MEASURED = (1, 3, 7), (1, 5, 10, 50, 1000), (5, 50)
WORK, NAMES = Workload(32, 128), ("a", "b")
MOST = {Wire.FP32: 0.0, Wire.BF16: 0.001, Wire.INT8: 0.01}  # nats per token, with seven cuts
OFF = 0.15


def lost(model: str, layers: int) -> dict[Wire, dict[int, float]]:
    """Nats per token that a wire type adds, by cuts."""
    ids, schemes = sequences(model, TEXT), [[STORED] * layers]
    without = plan_losses(model, schemes, ids)[0].mean

    def by(wire: Wire, cuts: int) -> float:
        at = [round(layers * cut / (cuts + 1)) for cut in range(1, cuts + 1)]
        return plan_losses(model, schemes, ids, rounded=dict.fromkeys(at, wire))[0].mean - without

    return {wire: {cuts: by(wire, cuts) for cuts in CUTS} for wire in (Wire.BF16, Wire.INT8)}


def cluster(mbps: float) -> Cluster:
    devices = tuple(Device(name, 8 * 10**9) for name in NAMES)
    return Cluster(devices, (), NAMES[0], (Network(NAMES, mbps * 125_000),))


def halves(spec: ModelSpec, wire: Wire) -> Plan:
    middle, end = spec.num_layers // 2, spec.num_layers
    ranges = zip(NAMES, (0, middle), (middle, end), strict=True)
    stages = tuple(Stage(name, a, b, (STORED,) * (b - a)) for name, a, b in ranges)
    return Plan(spec.name, spec.digest, end, stages, wire=wire)


def predicted(spec: ModelSpec, profile: Profile, wire: Wire, mbps: float) -> float:
    """Milliseconds per token, where links are as the cluster says."""
    of_layers = replace(profile, links=())
    costs = CostModel(spec, cluster(mbps), of_layers, replace(WORK, wire=wire))
    return 1000 * costs.estimate(halves(spec, wire)).decode_seconds


def measured(model: str, spec: ModelSpec, wire: Wire, mbps: float) -> float:
    work = replace(WORK, wire=wire)
    engine = open_engine(model, halves(spec, wire), cluster(mbps), work, spec=spec)
    try:
        return 1000 / run(engine, 1).tokens_per_second
    finally:
        engine.close()


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--model", default="smollm2")
    model, load = parser.parse_args().model, os.getloadavg()[0]
    spec = open_checkpoint(model).spec
    losses = lost(model, spec.num_layers)
    with start_local(cluster(1000)) as workers:
        profile = measure(workers, model, spec, [STORED], Grid.around(WORK))
    said = {wire: {rate: predicted(spec, profile, wire, rate) for rate in RATES} for wire in Wire}
    took = {wire: {rate: measured(model, spec, wire, rate) for rate in MEASURED} for wire in Wire}
    failed = [
        f"{wire} loses {loss:.2g} nats with {cuts} cuts"
        for wire, by_cuts in losses.items()
        for cuts, loss in by_cuts.items()
        if loss > MOST[wire]
    ]
    failed += [
        f"{wire} at {rate} Mbps took {ms:.1f} ms a token, {said[wire][rate]:.1f} predicted"
        for wire, by_rate in took.items()
        for rate, ms in by_rate.items()
        if abs(ms / said[wire][rate] - 1) > OFF
    ]
    machine = f"{describe_machine()['processor']}, {os.cpu_count()} cores"
    figures = {"losses": losses, "predicted_ms": said, "measured_ms": took}
    finish("wire", {"machine": machine, "load": load, "model": model, **figures}, failed)


if __name__ == "__main__":
    main()
