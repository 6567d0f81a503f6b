"""Claim: a private adapter answers as well as LoRA with as many trained numbers, within a point.

The demo's questions about a city, with contexts that were not learned from; SmolLM2 in 4 bits,
adapters of q, k and v in all blocks: private ones of rank 30 train 900 numbers a matrix (M alone),
LoRA of rank 1 as many as a row and a column have, 2,700 and 2,688 a block. The rate of each is the
best of the same three after a quarter of the steps, by questions that the other ones do not judge.
`python benchmarks/equal_parameters.py [steps]`.
"""

import os
import sys
from dataclasses import asdict

import torch
from claims import finish
from tuning import BATCH, LEARNED, MODEL, SCHEME, questions

from edgewise import kernels
from edgewise.adapters import AdapterConfig, Kind
from edgewise.adapters.low_rank import MATRICES
from edgewise.cli.devices import describe_machine
from edgewise.models.checkpoint import open_checkpoint
from edgewise.models.tokenizer import load_tokenizer
from edgewise.tuning.judging import Verdict
from edgewise.tuning.lessons import Lesson, lessons_of
from edgewise.tuning.loading import load_tunable
from edgewise.tuning.method import TuningMethod
from edgewise.tuning.recipe import Recipe
from edgewise.tuning.training import Training

STEPS, TRIED = 200, 4  # the rate is chosen by a quarter of the steps
CHOSEN_BY, JUDGED = 48, 200  # questions
RATES = (1e-3, 4e-3, 1.6e-2)
WORSE = 0.01
QKV = MATRICES[:3]
ADAPTERS = {
    TuningMethod.PRIVATE: AdapterConfig(kind=Kind.PRIVATE, rank=30, matrices=QKV),
    TuningMethod.LORA: AdapterConfig(rank=1, alpha=2.0, matrices=QKV),
}


def trained(method: TuningMethod, rate: float, steps: int, lessons: list[Lesson]) -> Training:
    checkpoint = open_checkpoint(MODEL)
    recipe = Recipe(method, steps=steps, batch=BATCH, rate=rate, adapter=ADAPTERS[method])
    windows = recipe.windows(checkpoint.config.num_blocks)
    training = Training(load_tunable(checkpoint, SCHEME, recipe.adapter, windows), recipe, lessons)
    while training.done < steps:
        training.step()
    return training


def numbers(training: Training) -> int:
    (window,) = training.model.windows
    return sum(x.numel() for x in training.model.trained(window).values())


def main() -> None:
    steps = int(sys.argv[1]) if len(sys.argv) > 1 else STEPS
    torch.set_num_threads(os.cpu_count() or 1)
    tokenizer = load_tokenizer(MODEL)
    learned = lessons_of(questions(1, LEARNED, "train"), tokenizer, 512)
    chosen_by = lessons_of(questions(3, CHOSEN_BY, "held_out"), tokenizer, 512)
    judged = lessons_of(questions(2, JUDGED, "held_out"), tokenizer, 512)
    tries: dict[str, dict[float, Verdict]] = {}
    rows: dict[str, tuple[int, float, Verdict]] = {}
    for method in ADAPTERS:
        tries[method] = {
            rate: trained(method, rate, steps // TRIED, learned).judge(chosen_by)["last"]
            for rate in RATES
        }
        rate = min(RATES, key=lambda x: tries[method][x].loss)
        training = trained(method, rate, steps, learned)
        rows[method] = numbers(training), rate, training.judge(judged)["last"]
        count, rate, verdict = rows[method]
        said = f"{verdict.right:.1%} right, {verdict.loss:.3f} nats"
        print(f"{method}: {count} numbers, rate {rate:g}, {steps} steps: {said}", flush=True)
    private, lora = (rows[x][2].right for x in ADAPTERS)
    failed = [] if private >= lora - WORSE else [f"private {private:.1%} right, LoRA {lora:.1%}"]
    finish("equal_parameters", {
        "machine": describe_machine()["processor"], "kernels": kernels.instruction_set(),
        "load": os.getloadavg()[0], "torch": torch.__version__, "scheme": SCHEME, "steps": steps,
        "tries": {k: {r: asdict(v) for r, v in x.items()} for k, x in tries.items()},
        "rows": {k: {"numbers": n, "rate": r, **asdict(v)} for k, (n, r, v) in rows.items()},
    }, failed)  # fmt: skip


if __name__ == "__main__":
    main()
