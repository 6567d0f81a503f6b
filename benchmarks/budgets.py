"""Claim: a quality budget is a promise. On random clusters and with budgets of 0.5, 1 and 5 %, the
plans that `edgewise plan --quality` makes lose no more: not when measured, and not on texts that
were never used for planning, which `--texts` names ("english", or files) and which the model
writes besides.

Two to four devices of different speed with memory for 2 to 9 bits a weight; times are synthetic
(rooflines), losses and what plans truly lose are measured. Ends with an error where a budget is
broken by more than twice the standard error of what was measured.

`python benchmarks/budgets.py [--model FOLDER] [--texts FILE ...] [--clusters 20]`.
"""

import argparse
import json
import os
import platform
import sys
from dataclasses import replace
from itertools import product

import numpy as np
import torch

from edgewise.clusters import Cluster, Device, Link
from edgewise.costs import CostModel
from edgewise.errors import Infeasible
from edgewise.memory import workspace_bytes
from edgewise.models.checkpoint import open_checkpoint
from edgewise.planning import PlanResult, Problem
from edgewise.planning.joint import joint
from edgewise.plans import Plan
from edgewise.quality.calibration import Calibration, sequences
from edgewise.quality.plan_loss import Loss, plan_losses
from edgewise.quality.promise import Kept, keep
from edgewise.quality.rounding import rounding_for
from edgewise.quality.sensitivity import measure_sensitivity
from edgewise.quality.verification import verify
from edgewise.quantization.store import Store
from edgewise.schemes import CANDIDATES, get_scheme
from edgewise.sensitivities import Sensitivity
from edgewise.simulation.rooflines import Roofline, make_profile
from edgewise.specs import Workload

BUDGETS, SECONDS = (0.005, 0.01, 0.05), 3.0
WORK = Workload(64, 32)


def problem(name: str, seed: int, sensitivity: Sensitivity) -> Problem:
    rng = np.random.default_rng(seed)
    model = open_checkpoint(name).spec
    names = [f"device-{i}" for i in range(int(rng.integers(2, 5)))]
    share = rng.lognormal(0.0, 0.4, len(names))
    weights = sum(layer.weight_bytes(get_scheme("bf16")) for layer in model.layers)
    room = weights * rng.uniform(0.2, 0.6) * share / share.sum()
    room[0] = max(room[0], model.layers[0].weight_bytes(get_scheme("q8g32d")))
    cache = WORK.context * 2 * sum(layer.kv_width for layer in model.layers)
    devices = tuple(
        Device(name, int(size + cache + workspace_bytes(model, WORK)))
        for name, size in zip(names, room, strict=True)
    )
    links = tuple(
        Link(a, b, 1e9 / 8, 1e-4 * rng.uniform(1, 10)) for a in names for b in names if a != b
    )
    kinds = [Roofline(x, 1e11, 1e9 * rng.uniform(1, 8), overhead_seconds=2e-5) for x in names]
    profile = make_profile(model, kinds, CANDIDATES)
    costs = CostModel(model, Cluster(devices, links, names[0]), profile, WORK, sensitivity)
    return Problem(costs, CANDIDATES)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--model", default="demo")
    parser.add_argument("--texts", nargs="*", default=[], help="never used for planning")
    parser.add_argument("--clusters", type=int, default=20)
    parser.add_argument("--sequences", type=int, default=64, help="of 128 tokens, of each text")
    asked = parser.parse_args()
    model, store = asked.model, Store.default()
    method = rounding_for(model, CANDIDATES)
    ids = sequences(model, Calibration())
    sensitivity = measure_sensitivity(model, CANDIDATES, ids, method=method, store=store)
    fresh = {
        text or "its own": sequences(model, Calibration(text, asked.sequences, seed=3))
        for text in (None, *asked.texts)
    }
    rows: list[dict[str, object]] = []
    losses: dict[tuple[str, ...], dict[str, Loss]] = {}
    for seed, share in product(range(asked.clusters), BUDGETS):
        budget = share * sensitivity.reference
        row: dict[str, object] = {"cluster": seed, "budget": share}
        rows.append(row)
        try:
            kept = keep_within(model, problem(model, seed, sensitivity), budget, method, store)
        except Infeasible as error:
            row["infeasible"] = str(error)
            print(f"cluster {seed:2}, {share:.1%}: {error}", flush=True)
            continue
        schemes, last = kept.result.plan.schemes, kept.rounds[-1]
        if schemes not in losses:
            losses[schemes] = {
                name: plan_losses(model, [schemes], ids, method=method, store=store)[0]
                for name, ids in fresh.items()
            }
        row |= {"rounds": len(kept.rounds), "schemes": schemes}
        for name in ("predicted", "measured", "upper"):
            row[name] = getattr(last, name) / sensitivity.reference
        shares = {n: x.mean / sensitivity.reference for n, x in losses[schemes].items()}
        row["fresh"] = shares
        row["broken"] = [n for n, x in losses[schemes].items() if x.mean - 2 * x.error > budget]
        row["beyond"] = [n for n, x in losses[schemes].items() if x.mean > budget]
        shown = ", ".join(f"{name} {x:.2%}" for name, x in shares.items())
        print(
            f"cluster {seed:2}, {share:.1%}: predicted {row['predicted']:.2%}, measured "
            f"{row['measured']:.2%} (at most {row['upper']:.2%}), {len(kept.rounds)} rounds; "
            f"{shown}",
            flush=True,
        )
    made = [row for row in rows if "measured" in row]
    beyond, broken = (sum(bool(row[what]) for row in made) for what in ("beyond", "broken"))
    print(
        f"{len(made)} plans: {beyond} beyond their budget on a fresh text, {broken} surely; "
        f"{len(rows) - len(made)} infeasible"
    )
    versions = {"python": platform.python_version(), "torch": torch.__version__, "model": model}
    machine = f"{platform.machine()}, {os.cpu_count()} cores"
    print(json.dumps({"benchmark": "budgets", "machine": machine, **versions, "rows": rows}))
    sys.exit(1 if broken else 0)


def keep_within(
    model: str, asked: Problem, budget: float, method: str | None, store: Store | None
) -> Kept:
    """As `edgewise plan --quality` does it."""

    def plan_within(allowed: float) -> PlanResult:
        return joint(replace(asked, budget=allowed), SECONDS)

    def loss_of(plan: Plan, attempt: int) -> Loss:
        return verify(model, plan.schemes, attempt, method=method, store=store)

    return keep(budget, plan_within, loss_of)


if __name__ == "__main__":
    main()
