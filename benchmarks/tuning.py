"""Claim: adapting SmolLM2 a window of blocks at a time takes at least 2.92 times less time a step
and a quarter of the memory that the backward pass needs of LoRA through all blocks, on the same
records, and is no worse by more than a point; votes are at least as good as the best single exit.

The demo's questions about a city, with contexts that were not learned from. Both methods by turns
for the seconds and bytes of a step, then each for as many steps, and windows on for as long as LoRA
took. A batch goes through all windows, a step each, so that what the model computes before a window
is computed once. What the backward
pass needs is what autograd keeps of a forward pass, each storage once, and not the weights; beside
it what the system saw the process grow by. With a text its pieces of 64 tokens are learned instead,
the last fifth held out, and tokens foreseen are counted. `python benchmarks/tuning.py [steps]
[text]`.
"""

import os
import sys
import time
from dataclasses import asdict
from pathlib import Path
from statistics import median

import torch
from claims import finish

from edgewise import kernels
from edgewise.adapters import AdapterConfig
from edgewise.cli.devices import describe_machine
from edgewise.demo.questions import Split, draw_questions, prompt
from edgewise.models.checkpoint import open_checkpoint
from edgewise.models.tokenizer import load_tokenizer
from edgewise.tuning.judging import Verdict, judge
from edgewise.tuning.kept import kept_by
from edgewise.tuning.lessons import Lesson, batch_of, lessons_of
from edgewise.tuning.loading import load_tunable
from edgewise.tuning.method import TuningMethod
from edgewise.tuning.recipe import Recipe, rate_of
from edgewise.tuning.records import Record, answered
from edgewise.tuning.training import Training

MODEL, SCHEME = "smollm2", "q4g32ad"
STEPS, BATCH = 200, 8
LEARNED, JUDGED = 2000, 200
PIECE = 64  # tokens of a text
TIMED = 3  # rounds, for each window and for all blocks
FASTER, LESS, WORSE = 2.92, 4.0, 0.01
METHODS = (TuningMethod.LORA, TuningMethod.WINDOW)


def questions(seed: int, count: int, split: Split) -> list[Record]:
    drawn = draw_questions(seed, count, split)
    return [answered(prompt(x.context, x.question), x.answer) for x in drawn]


def begun(method: TuningMethod, steps: int, lessons: list[Lesson]) -> Training:
    checkpoint = open_checkpoint(MODEL)
    rate, adapter = rate_of(method), AdapterConfig(rank=8)
    recipe = Recipe(method, steps=steps, batch=BATCH, rate=rate, adapter=adapter)
    windows = recipe.windows(checkpoint.config.num_blocks)
    return Training(load_tunable(checkpoint, SCHEME, recipe.adapter, windows), recipe, lessons)


def high_water() -> int:
    """The most that the process had in memory since it was last asked."""
    lines = Path("/proc/self/status").read_text().splitlines()
    size = next(int(line.split()[1]) * 1024 for line in lines if line.startswith("VmHWM"))
    Path("/proc/self/clear_refs").write_text("5")
    return size


def resident() -> int:
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def costs(training: Training, lessons: list[Lesson]) -> tuple[float, int, int]:
    """Seconds of the next step, bytes that autograd keeps in it, and that the process grows by."""
    index = training.recipe.window_at(training.done, len(training.model.windows))
    window, batch = training.model.windows[index], batch_of(lessons[:BATCH])
    before, _ = resident(), high_water()
    began = time.perf_counter()
    training.step()
    seconds, most = time.perf_counter() - began, high_water()
    states = training.model.plain(training.model.entered(batch.tokens), 0, window.first)
    return seconds, kept_by(training.model, window, batch, states), most - before


def compare_costs(lessons: list[Lesson]) -> dict[TuningMethod, tuple[float, int, int]]:
    """By turns, a batch each: the mean over windows of the median step, and the most of any step's
    memory."""
    trainings = {method: begun(method, STEPS, lessons) for method in METHODS}
    rows: dict[TuningMethod, list[list[tuple[float, int, int]]]] = {x: [] for x in METHODS}
    for _ in range(TIMED + 1):
        for method, training in trainings.items():
            rows[method].append([costs(training, lessons) for _ in training.model.windows])
    result = {}
    for method, rounds in rows.items():
        seconds = [median(row[0] for row in steps) for steps in zip(*rounds[1:], strict=True)]
        kept = max(row[1] for steps in rounds[1:] for row in steps)
        grown = max(row[2] for steps in rounds[1:] for row in steps)
        result[method] = sum(seconds) / len(seconds), kept, grown
    return result


def lessons(text: str | None) -> tuple[list[Lesson], list[Lesson]]:
    """What is learned, and what is judged by."""
    tokenizer = load_tokenizer(MODEL)
    if text is None:
        learned, judged = questions(1, LEARNED, "train"), questions(2, JUDGED, "held_out")
        return lessons_of(learned, tokenizer, 512), lessons_of(judged, tokenizer, 512)
    pieces = lessons_of([Record((), Path(text).read_text("utf-8"))], tokenizer, PIECE)
    cut = len(pieces) * 4 // 5
    return pieces[:cut], pieces[cut : cut + JUDGED]


def judged_after(training: Training, steps: int, lessons: list[Lesson]) -> dict[str, Verdict]:
    """Of a model after so many steps in all."""
    began = time.perf_counter()
    while training.done < steps:
        training.step()
    print(f"{training.recipe.method}: at step {steps} after {time.perf_counter() - began:.0f} s")
    verdicts = judge(training.model, lessons)
    for name, x in verdicts.items():
        said = f"{x.loss:6.3f} nats, {x.likeliest:6.1%} of tokens foreseen, {x.right:.1%} right"
        print(f"  {name:12} {said}", flush=True)
    return verdicts


def main() -> None:
    steps = int(sys.argv[1]) if len(sys.argv) > 1 else STEPS
    torch.set_num_threads(os.cpu_count() or 1)
    learned, judged = lessons(sys.argv[2] if len(sys.argv) > 2 else None)
    spent = compare_costs(learned)
    for method, (seconds, kept, grown) in spent.items():
        print(
            f"{method}: {seconds:.2f} s a step, {kept / 1e6:.0f} MB kept, {grown / 1e6:.0f} grown"
        )
    verdicts = {}
    for method in METHODS:
        training = begun(method, steps, learned)
        verdicts[f"{method} before"] = judge(training.model, judged)
        verdicts[method] = judged_after(training, steps, judged)
    lora, window = (spent[method][0] for method in METHODS)
    longer = round(steps * lora / window)
    verdicts["window in LoRA's time"] = judged_after(training, longer, judged)
    finish("tuning", {
        "machine": describe_machine()["processor"], "kernels": kernels.instruction_set(),
        "load": os.getloadavg()[0], "torch": torch.__version__, "scheme": SCHEME, "steps": steps,
        "costs": spent,
        "text": sys.argv[2:],
        "verdicts": {k: {n: asdict(v) for n, v in x.items()} for k, x in verdicts.items()},
    }, failed_of(spent, verdicts, of_answers=len(sys.argv) < 3))  # fmt: skip


def failed_of(
    spent: dict[TuningMethod, tuple[float, int, int]],
    verdicts: dict[str, dict[str, Verdict]],
    *,
    of_answers: bool,
) -> list[str]:
    """What does not hold; accuracy is of answers, or of tokens foreseen."""
    failed = []
    faster = spent[TuningMethod.LORA][0] / spent[TuningMethod.WINDOW][0]
    less = spent[TuningMethod.LORA][1] / spent[TuningMethod.WINDOW][1]
    print(f"steps {faster:.2f} times as quick, {less:.2f} times less kept")
    if faster < FASTER:
        failed.append(f"steps only {faster:.2f} times as quick")
    if less < LESS:
        failed.append(f"only {less:.2f} times less kept")
    window, lora = (
        {name: x.right if of_answers else x.likeliest for name, x in verdicts[method].items()}
        for method in (TuningMethod.WINDOW, TuningMethod.LORA)
    )
    exits = max(share for name, share in window.items() if name.startswith("exit"))
    if window["confidence"] < exits:
        failed.append(f"the vote is right in {window['confidence']:.1%}, an exit in {exits:.1%}")
    best = max(exits, window["confidence"])
    if best < lora["last"] - WORSE:
        failed.append(f"{best:.1%} right, LoRA {lora['last']:.1%}")
    return failed


if __name__ == "__main__":
    main()
