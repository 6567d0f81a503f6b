"""Claim: what a plan loses is the sum over its layers. Random plans that mix schemes, from nearly
all wide to nearly all narrow: the sum predicted from one backward pass, against what the plan loses
on other text when it runs. Printed: rank correlation, and quantiles of measured / predicted.

`python benchmarks/additivity.py [--model FOLDER] [--plans 60]`.
"""

import argparse
import json
import os
import platform
import time

import numpy as np
import torch

from edgewise.models.checkpoint import open_checkpoint
from edgewise.quality.calibration import Calibration, sequences
from edgewise.quality.plan_loss import plan_losses
from edgewise.quality.rounding import rounding_for
from edgewise.quality.sensitivity import measure_sensitivity
from edgewise.quantization.store import Store
from edgewise.schemes import CANDIDATES
from edgewise.sensitivities import Sensitivity

QUANTILES = (0.0, 0.1, 0.25, 0.5, 0.75, 0.9, 1.0)
MOST_LOSS = 1.0  # nats per token: plans beyond that nobody runs


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--model", default="demo")
    parser.add_argument("--plans", type=int, default=60)
    parser.add_argument("--schemes", default=",".join(CANDIDATES))
    parser.add_argument("--sequences", type=int, default=32, help="of 128 tokens, to measure on")
    asked = parser.parse_args()
    model, schemes, store = asked.model, tuple(asked.schemes.split(",")), Store.default()
    began = time.monotonic()
    method = rounding_for(model, schemes)
    ids = sequences(model, Calibration(count=asked.sequences))
    readied = time.monotonic()
    sensitivity = measure_sensitivity(model, schemes, ids, method=method, store=store)
    seconds = time.monotonic() - readied
    plans = random_plans(sensitivity, asked.plans)
    predicted = np.array([loss_of(sensitivity, plan) for plan in plans])
    fresh = sequences(model, Calibration(count=asked.sequences, seed=3))
    measured = np.array(
        [x.mean for x in plan_losses(model, plans, fresh, method=method, store=store)]
    )
    ranks = [np.argsort(np.argsort(x)) for x in (predicted, measured)]
    correlation = float(np.corrcoef(*ranks)[0, 1])
    ratios = {q: float(np.quantile(measured / predicted, q)) for q in QUANTILES}
    print(f"{model}: {len(plans)} plans, rank correlation {correlation:.3f}")
    print("measured / predicted: " + ", ".join(f"{q:.0%} {x:.2f}" for q, x in ratios.items()))
    print(f"text and statistics {readied - began:.0f} s, sensitivity {seconds:.0f} s")
    document = {
        "benchmark": "additivity",
        "model": model,
        "layers": open_checkpoint(model).config.num_layers,
        "machine": f"{platform.machine()}, {os.cpu_count()} cores",
        "torch": torch.__version__,
        "schemes": schemes,
        "rank_correlation": correlation,
        "ratios": {str(q): x for q, x in ratios.items()},
        "sensitivity_seconds": seconds,
        "predicted": predicted.tolist(),
        "measured": measured.tolist(),
    }
    print(json.dumps(document))


def loss_of(sensitivity: Sensitivity, plan: tuple[str, ...]) -> float:
    return sum(sensitivity.losses[name][layer] for layer, name in enumerate(plan))


def random_plans(sensitivity: Sensitivity, count: int) -> list[tuple[str, ...]]:
    """Each leans towards narrow or wide schemes by another degree, and loses at most MOST_LOSS."""
    rng, names = np.random.default_rng(0), list(sensitivity.losses)
    layers, plans = len(sensitivity.losses[names[0]]), list[tuple[str, ...]]()
    while len(plans) < count:
        centre, width = rng.uniform(0, len(names) - 1), rng.uniform(0.3, 2.0)
        odds = np.exp(-(((np.arange(len(names)) - centre) / width) ** 2))
        plan = tuple(rng.choice(names, layers, p=odds / odds.sum()).tolist())
        if loss_of(sensitivity, plan) <= MOST_LOSS and len(set(plan)) > 1:
            plans.append(plan)
    return plans


if __name__ == "__main__":
    main()
