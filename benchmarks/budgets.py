"""Claim: a quality budget is a promise. On 20 random clusters and with budgets of 0.5, 1 and 5 %,
the plans that `edgewise plan --quality` makes of the demo model lose no more when measured.

Two to four devices of different speed with memory for 2 to 9 bits a weight; times are synthetic
(rooflines), losses and what plans truly lose are measured. "Fresh" is the loss on a third text,
which nothing was decided by: no promise, but what it is worth. `python benchmarks/budgets.py`.
"""

import json
import os
import platform
from dataclasses import replace

import numpy as np
import torch

from edgewise.cli.promise import HELD_OUT
from edgewise.clusters import Cluster, Device, Link
from edgewise.costs import CostModel, workspace_bytes
from edgewise.errors import Infeasible
from edgewise.models.checkpoint import open_checkpoint
from edgewise.planning import Problem
from edgewise.planning.joint import joint
from edgewise.plans import Plan
from edgewise.quality.calibration import Calibration, sequences
from edgewise.quality.plan_loss import Loss, plan_losses
from edgewise.quality.promise import keep
from edgewise.quality.sensitivity import measure_sensitivity
from edgewise.quantization.store import Store
from edgewise.schemes import get_scheme
from edgewise.sensitivities import Sensitivity
from edgewise.simulation.rooflines import Figures, make_profile
from edgewise.specs import Workload

MODEL, CLUSTERS, BUDGETS, SECONDS = "demo", 20, (0.005, 0.01, 0.05), 3.0
SCHEMES = ("q2g64", "q3g64", "q4g64", "q5g64", "q6g64", "q8g64", "bf16")
WORK = Workload(64, 32)


def problem(seed: int, sensitivity: Sensitivity) -> Problem:
    rng = np.random.default_rng(seed)
    model = open_checkpoint(MODEL).spec
    names = [f"device-{i}" for i in range(int(rng.integers(2, 5)))]
    share = rng.lognormal(0.0, 0.4, len(names))
    weights = sum(layer.weight_bytes(get_scheme("bf16")) for layer in model.layers)
    room = weights * rng.uniform(0.2, 0.6) * share / share.sum()
    room[0] = max(room[0], model.layers[0].weight_bytes(get_scheme("q8g64")))
    cache = WORK.context * model.kv_width * 2 * model.num_blocks
    devices = tuple(
        Device(name, int(size + cache + workspace_bytes(model, WORK)))
        for name, size in zip(names, room, strict=True)
    )
    links = tuple(
        Link(a, b, 1e9 / 8, 1e-4 * rng.uniform(1, 10)) for a in names for b in names if a != b
    )
    kinds = [Figures(x, 1e11, 1e9 * rng.uniform(1, 8), overhead_seconds=2e-5) for x in names]
    profile = make_profile(model, kinds, SCHEMES)
    costs = CostModel(model, Cluster(devices, links, names[0]), profile, WORK, sensitivity)
    return Problem(costs, SCHEMES)


def main() -> None:
    store = Store.default()
    sensitivity = measure_sensitivity(MODEL, SCHEMES, sequences(MODEL, Calibration()), store=store)
    held_out = sequences(MODEL, HELD_OUT)
    fresh = sequences(MODEL, Calibration(count=256, seed=3))

    def loss_of(plan: Plan) -> Loss:
        return plan_losses(MODEL, [plan.schemes], held_out, store=store)[0]

    rows = []
    for seed in range(CLUSTERS):
        for share in BUDGETS:
            asked = replace(problem(seed, sensitivity), budget=share * sensitivity.reference)

            def plan_within(budget: float, asked: Problem = asked):  # type: ignore[no-untyped-def]
                return joint(replace(asked, budget=budget), SECONDS)

            row: dict[str, float | str] = {"cluster": seed, "budget": share}
            try:
                kept = keep(asked.budget, plan_within, loss_of)
                last = kept.rounds[-1]
                row |= {"predicted": last.predicted / sensitivity.reference}
                row |= {"measured": last.measured / sensitivity.reference}
                row |= {"rounds": len(kept.rounds)}
                found = plan_losses(MODEL, [kept.result.plan.schemes], fresh, store=store)[0]
                row |= {"upper": last.upper / sensitivity.reference}
                row |= {"fresh": found.mean / sensitivity.reference}
                print(f"cluster {seed:2}, {share:.1%}: predicted {row['predicted']:.2%}, measured "
                      f"{row['measured']:.2%} (at most {row['upper']:.2%}), "
                      f"{len(kept.rounds)} rounds, fresh "
                      f"{row['fresh']:.2%}", flush=True)  # fmt: skip
            except Infeasible as error:
                row["infeasible"] = str(error)
                print(f"cluster {seed:2}, {share:.1%}: {error}")
            rows.append(row)
    held = [row for row in rows if "measured" in row]
    broken, beyond = (sum(row[what] > row["budget"] for row in held) for what in ("upper", "fresh"))
    print(
        f"{len(held)} plans, {broken} beyond their budget when measured, {beyond} on fresh text; "
        f"{len(rows) - len(held)} infeasible"
    )
    versions = {"python": platform.python_version(), "torch": torch.__version__}
    machine = f"{platform.machine()}, {os.cpu_count()} cores"
    print(json.dumps({"benchmark": "budgets", "machine": machine, **versions, "rows": rows}))


if __name__ == "__main__":
    main()
