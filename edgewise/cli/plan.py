"""`edgewise plan`: measure a cluster and compare the planners."""

import json
from pathlib import Path

from edgewise.cli.prepare import best, compare, comparison_json, measure_cluster
from edgewise.cli.terminal import comparison_table, console, print_text
from edgewise.models.checkpoint import open_checkpoint
from edgewise.runtime.local import LocalDevices
from edgewise.schemes import get_scheme
from edgewise.specs import Cluster, Workload


def run_plan(
    model: str,
    cluster_file: Path,
    *,
    scheme: str,
    workload: Workload,
    out: Path | None,
    as_json: bool,
) -> None:
    """Print the comparison; write the best plan to `out`."""
    get_scheme(scheme)
    spec = open_checkpoint(model).config.spec(model)
    cluster = Cluster.from_toml(cluster_file)
    with LocalDevices(cluster) as devices:
        profile = measure_cluster(devices, model, spec, workload, scheme, as_json)
    outcomes = compare(spec, cluster, profile, workload, scheme)
    chosen = best(outcomes)
    if out is not None:
        out.write_text(chosen.plan.to_json() + "\n", encoding="utf-8")
    screen = console(as_json)
    screen.print(comparison_table(outcomes, chosen.planner))
    if as_json:
        document = {"model": model, "plans": comparison_json(outcomes), "chosen": chosen.planner}
        print_text(json.dumps(document) + "\n")
