"""What cost model and simulator say of many requests at a time, against running processes."""

from dataclasses import replace
from itertools import pairwise
from statistics import mean, median

import pytest

from edgewise.clusters import Cluster, Device, Link, Network
from edgewise.costs import CostModel
from edgewise.demo import MODEL_FOLDER
from edgewise.models.checkpoint import open_checkpoint
from edgewise.plans import Plan, Stage
from edgewise.profiling import Grid, measure, measure_layers
from edgewise.runtime.coordinator.coordinator import Coordinator
from edgewise.runtime.coordinator.workers import Workers
from edgewise.runtime.engine import Request
from edgewise.runtime.local import start_local
from edgewise.simulation import simulate_plan, together
from edgewise.specs import Workload

FAR = Cluster(
    (Device("near", 10**9), Device("far", 10**9)),
    (Link("near", "far", latency_seconds=0.03), Link("far", "near", latency_seconds=0.03)),
    "near",
)
LANES, NEW = 8, 24


def tokens_per_second(workers: Workers, plan: Plan) -> float:
    """Of all requests, once all are being answered."""
    engine = Coordinator(workers, plan.model, plan, Workload(16, NEW, LANES, LANES))
    times: dict[int, list[float]] = {
        engine.submit(Request(tuple(range(5, 21)), NEW)): [] for _ in range(LANES)
    }
    for tokens in iter(engine.step, []):
        for token in tokens:
            times[token.request].append(token.at)
    return LANES / median(b - a for row in times.values() for a, b in pairwise(row[1:]))


def test_requests_share_a_link_of_30_ms_without_waiting_for_each_other() -> None:
    """Two stages, eight requests: where latency was thought to occupy links, 31 tokens a second
    were predicted and simulated, and 87 measured."""
    model, work = str(MODEL_FOLDER), Workload(16, NEW, LANES, LANES)
    spec = open_checkpoint(model).spec
    cut, scheme = spec.num_layers // 2, "fp32"
    stages = (
        Stage("near", 0, cut, (scheme,) * cut),
        Stage("far", cut, spec.num_layers, (scheme,) * (spec.num_layers - cut)),
    )
    plan = Plan(model, spec.digest, spec.num_layers, stages)
    with start_local(FAR) as devices:
        profile = measure(devices, model, spec, (scheme,), Grid.around(Workload(16, NEW)))
        measured = tokens_per_second(devices, plan)
    costs = CostModel(spec, FAR, profile, work)
    predicted = costs.estimate(plan).tokens_per_second
    simulated = simulate_plan(costs, plan, together(LANES, 16, NEW)).tokens_per_second
    # A loaded machine is slower than its profile; what it cannot be is twice as quick.
    assert 0.5 * predicted < measured < 1.3 * predicted
    assert 0.5 * simulated < measured < 1.5 * simulated
    assert predicted > 3 * LANES / (LANES * 0.03)


RATE = 62_500.0  # 0.5 Mbps: the 768 bytes of a hidden state take 12 ms, a stage takes one or two
HUB = Device("hub", 10**9)
ENDS = tuple(Device(name, 10**9, kind="hub") for name in ("one", "two"))
SLOW = Network(("hub", "one", "two"), RATE)


def test_two_links_over_one_interface_share_its_bandwidth() -> None:
    """From the hub to one device, back, and to another: eight requests send 16 hidden states in a
    round, at once where links are all there is, one after the other where they share the hub's
    interface."""
    model, work, scheme = str(MODEL_FOLDER), Workload(16, NEW, LANES, LANES), "fp32"
    spec = open_checkpoint(model).spec
    cuts = [round(spec.num_layers * part / 4) for part in range(5)]
    stages = tuple(
        Stage(device, start, end, (scheme,) * (end - start))
        for device, (start, end) in zip(("hub", "one", "hub", "two"), pairwise(cuts), strict=True)
    )
    plan = Plan(model, spec.digest, spec.num_layers, stages)
    profile, rates = None, []
    for hub in (HUB, replace(HUB, interface_bytes_per_second=RATE)):
        cluster = Cluster((hub, *ENDS), (), "hub", (SLOW,))
        with start_local(cluster) as devices:
            grid = Grid.around(Workload(16, NEW))
            profile = profile or measure_layers(devices, ["hub"], model, spec, (scheme,), grid)
            measured = tokens_per_second(devices, plan)
        costs = CostModel(spec, cluster, profile, work)
        rates.append(measured)
        assert measured == pytest.approx(costs.estimate(plan).tokens_per_second, rel=0.15)
        simulated = simulate_plan(costs, plan, together(LANES, 16, 4 * NEW))
        rounds = [b - a for r in simulated.requests for a, b in pairwise(r.token_seconds[NEW:])]
        assert measured == pytest.approx(LANES / mean(rounds), rel=0.15)
    assert rates[1] == pytest.approx(rates[0] / 2, rel=0.15)
