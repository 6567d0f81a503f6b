"""`edgewise plan`: measure a cluster and compare the planners."""

import json
from pathlib import Path

from edgewise.cli.prepare import best, compare, comparison_json, measure_cluster
from edgewise.cli.terminal import comparison_table, console, print_text
from edgewise.cluster_files import load_cluster
from edgewise.costs import CostModel
from edgewise.models.checkpoint import open_checkpoint
from edgewise.planning import Problem
from edgewise.profiling import Grid
from edgewise.runtime.local import LocalDevices
from edgewise.schemes import get_scheme
from edgewise.specs import Workload


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
    cluster = load_cluster(cluster_file)
    with LocalDevices(cluster) as devices:
        grid = Grid.around(workload)
        profile = measure_cluster(devices, model, spec, [scheme], grid, as_json)
    problem = Problem(CostModel(spec, cluster, profile, workload), (scheme,))
    outcomes = compare(problem)
    chosen = best(problem, outcomes)
    if out is not None:
        out.write_text(chosen.plan.to_json() + "\n", encoding="utf-8")
    screen = console(as_json)
    screen.print(comparison_table(outcomes, chosen.planner))
    if as_json:
        document = {"model": model, "plans": comparison_json(outcomes), "chosen": chosen.planner}
        print_text(json.dumps(document) + "\n")
