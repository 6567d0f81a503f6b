"""`edgewise tune`: adapt a model to records."""

import time
from dataclasses import asdict

import psutil
from rich.table import Table

from edgewise.adapters import AdapterConfig, Kind
from edgewise.cli.adapting import TuneOptions
from edgewise.cli.terminal import console, print_json, progress
from edgewise.models.checkpoint import open_checkpoint
from edgewise.models.tokenizer import load_tokenizer
from edgewise.tuning import checkpoints
from edgewise.tuning.judging import Verdict, judge
from edgewise.tuning.lessons import lessons_of, split
from edgewise.tuning.loading import load_tunable, save_tuned
from edgewise.tuning.method import TuningMethod
from edgewise.tuning.recipe import Recipe
from edgewise.tuning.records import read_records
from edgewise.tuning.training import Training, TrainingStep
from edgewise.tuning.votes import VOTES
from edgewise.units import format_bytes

KEPT_EVERY = 20.0  # seconds between checkpoints


def run_tune(options: TuneOptions) -> None:
    """Learn what the records say, judge by those held out, and keep the adapters."""
    quiet, checkpoint = options.as_json, open_checkpoint(options.model)
    tokenizer, recipe = load_tokenizer(options.model), recipe_of(options)
    lessons = lessons_of(read_records(options.data), tokenizer, options.longest)
    learned, held_out = split(lessons, options.held_out, options.seed)
    windows = recipe.windows(checkpoint.config.num_blocks)
    with progress("loading", checkpoint.config.num_layers, quiet) as advance:
        model = load_tunable(checkpoint, options.scheme, recipe.adapter, windows, advance)
    training = Training(model, recipe, learned)
    key = checkpoints.key_of(checkpoint, options.scheme, recipe, learned)
    if checkpoints.restore(training, options.out, key):
        console(quiet).print(f"going on after step {training.done} of {recipe.steps}")
    before = judge(model, held_out) if training.done == 0 else {}
    steps = _train(training, options, key)
    after = judge(model, held_out)
    save_tuned(model, options.out, checkpoint, recipe.adapter)
    console(quiet).print(_table(before, after))
    console(quiet).print(f"adapters: {options.out}")
    if quiet:
        print_json({
            "model": options.model, "learned": len(learned), "held_out": len(held_out),
            "steps": [asdict(step) for step in steps], "out": str(options.out),
            "before": {name: asdict(x) for name, x in before.items()},
            "after": {name: asdict(x) for name, x in after.items()},
        })  # fmt: skip


def recipe_of(options: TuneOptions) -> Recipe:
    kind = Kind.PRIVATE if options.method is TuningMethod.PRIVATE else Kind.LORA
    return Recipe(
        options.method,
        options.window,
        options.at_random,
        options.steps,
        options.batch,
        options.rate,
        options.seed,
        AdapterConfig(kind, options.rank, 2.0 * options.rank, seed=options.seed),
    )


def _train(training: Training, options: TuneOptions, key: str) -> list[TrainingStep]:
    steps, kept, process = list[TrainingStep](), time.monotonic(), psutil.Process()
    with progress("learning", training.recipe.steps, options.as_json) as advance:
        while training.done < training.recipe.steps:
            began = time.monotonic()
            step = training.step()
            steps.append(step)
            now = time.monotonic()
            rate, memory = step.tokens / (now - began), format_bytes(process.memory_info().rss)
            advance(f"loss {step.loss:.3f}, {rate:.0f} tokens/s, {memory}")
            if now - kept > KEPT_EVERY or training.done == training.recipe.steps:
                checkpoints.save(training, options.out, key)
                kept = now
    return steps


def _table(before: dict[str, Verdict], after: dict[str, Verdict]) -> Table:
    table = Table("held out", "nats a token", "right word for word", title="What was learned")
    exits = sum(name not in VOTES for name in after)
    for name, verdict in after.items():
        if name in VOTES and exits == 1:
            continue  # they all say what it says
        was = before.get(name)
        loss = f"{verdict.loss:.3f}" if was is None else f"{was.loss:.3f} -> {verdict.loss:.3f}"
        right = f"{verdict.right:.1%}" if was is None else f"{was.right:.1%} -> {verdict.right:.1%}"
        table.add_row(name, loss, right)
    return table
