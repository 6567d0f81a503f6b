"""What cost model and simulator say of many requests at a time, against running processes."""

from itertools import pairwise
from statistics import median

from edgewise.clusters import Cluster, Device, Link
from edgewise.costs import CostModel
from edgewise.demo import MODEL_FOLDER
from edgewise.models.checkpoint import open_checkpoint
from edgewise.plans import Plan, Stage
from edgewise.profiling import Grid, measure
from edgewise.runtime.coordinator import Coordinator
from edgewise.runtime.engine import Request
from edgewise.runtime.local import start_local
from edgewise.runtime.workers import Workers
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
