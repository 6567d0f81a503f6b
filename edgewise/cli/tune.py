"""`edgewise tune`: adapt a model to records."""

import math
import time
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path

import psutil
from rich.table import Table

from edgewise.adapters import AdapterConfig, Kind
from edgewise.adapters.low_rank import MATRICES
from edgewise.adapters.matrices import check_tunable
from edgewise.cli.adapting import TuneOptions
from edgewise.cli.begin_training import begun, check_where
from edgewise.cli.terminal import console, print_json, progress
from edgewise.errors import InputError, NonFinite
from edgewise.models.checkpoint import open_checkpoint
from edgewise.models.tokenizer import load_tokenizer
from edgewise.models.votes import VOTES
from edgewise.tuning import checkpoints
from edgewise.tuning.devices import TrainingOnDevices
from edgewise.tuning.judging import Verdict
from edgewise.tuning.lessons import lessons_of, split, tokens_at_most
from edgewise.tuning.loading import save_tuned
from edgewise.tuning.method import TuningMethod
from edgewise.tuning.private_devices import PrivateTraining
from edgewise.tuning.recipe import Recipe, rate_of
from edgewise.tuning.records import read_records
from edgewise.tuning.training import Training, TrainingStep
from edgewise.units import format_bytes

KEPT_EVERY = 20.0  # seconds between checkpoints


def run_tune(options: TuneOptions) -> None:
    """Learn what the records say, judge by those held out, and keep the adapters."""
    check_where(options)
    quiet, checkpoint = options.as_json, open_checkpoint(options.model)
    check_tunable(checkpoint.config)
    tokenizer, recipe = load_tokenizer(options.model), recipe_of(options)
    longest = tokens_at_most(options.longest, checkpoint.config.max_context)
    lessons = lessons_of(read_records(options.data), tokenizer, longest)
    learned, held_out = split(lessons, options.held_out, options.seed)
    key = checkpoints.key_of(checkpoint, options.scheme, recipe, learned)
    kept = checkpoints.kept_in(_made(options.out), key)
    with begun(options, checkpoint, recipe, learned) as training:
        if kept is not None:
            training.resume(*kept)
            console(quiet).print(f"going on after step {training.done} of {recipe.steps}")
        before = training.judge(held_out) if training.done == 0 else {}
        steps = _train(training, options, key)
        after = training.judge(held_out)
        _check_finite(after, recipe)
        save_tuned(training.state()[1], options.out, checkpoint, recipe)
    console(quiet).print(_table(before, after))
    console(quiet).print(f"adapters: {options.out}")
    places = training.places if isinstance(training, TrainingOnDevices) else ()
    blocks = training.blocks if isinstance(training, PrivateTraining) else {}
    if quiet:
        print_json({
            "model": options.model, "learned": len(learned), "held_out": len(held_out),
            "places": [asdict(placed) for placed in places],
            "blocks": {name: [x.start, x.stop] for name, x in blocks.items()},
            "steps": [asdict(step) for step in steps], "out": str(options.out),
            "before": {name: asdict(x) for name, x in before.items()},
            "after": {name: asdict(x) for name, x in after.items()},
        })  # fmt: skip


def _made(folder: Path) -> Path:
    """It is there from now on. Raises InputError."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(f"cannot make {folder} ({error.strerror}): give another --out") from None
    return folder


def _check_finite(after: Mapping[str, Verdict], recipe: Recipe) -> None:
    """Raises NonFinite where what was learned by the last step is no model any more."""
    for name, verdict in after.items():
        if not math.isfinite(verdict.loss):
            raise NonFinite(
                f"{name} says {verdict.loss} nats a token of the records held out: most likely the "
                f"rate, {recipe.rate:g}, is too high, so no adapters were written: give a lower "
                "--rate, and another --out"
            )


def recipe_of(options: TuneOptions) -> Recipe:
    private = options.method is TuningMethod.PRIVATE  # on q, k, v: a trip to M for each block
    kind, matrices = (Kind.PRIVATE, MATRICES[:3]) if private else (Kind.LORA, MATRICES)
    return Recipe(
        options.method,
        options.window,
        options.order,
        options.steps,
        options.batch,
        rate_of(options.method) if options.rate is None else options.rate,
        options.seed,
        adapter=AdapterConfig(kind, options.rank, 2.0 * options.rank, matrices, options.seed),
    )


def _train(
    training: Training | TrainingOnDevices, options: TuneOptions, key: str
) -> list[TrainingStep]:
    """Its steps. Tokens a second are those since the last checkpoint: devices give steps back in
    bursts."""
    steps, tokens, kept = list[TrainingStep](), 0, time.monotonic()
    with progress("learning", training.recipe.steps, options.as_json) as advance:
        while training.done < training.recipe.steps:
            step = training.step()
            steps.append(step)
            tokens, now = tokens + step.tokens, time.monotonic()
            advance(
                f"loss {step.loss:.3f}, {tokens / (now - kept):.0f} tokens/s{_memory(training)}"
            )
            if now - kept > KEPT_EVERY or training.done == training.recipe.steps:
                checkpoints.save(training, options.out, key)
                tokens, kept = 0, now
    return steps


def _memory(training: Training | TrainingOnDevices) -> str:
    """Of this process, where it is the one that learns."""
    here = isinstance(training, Training)
    return f", {format_bytes(psutil.Process().memory_info().rss)}" if here else ""


def _table(before: dict[str, Verdict], after: dict[str, Verdict]) -> Table:
    columns = "held out", "nats a token", "tokens foreseen", "right word for word"
    table = Table(*columns, title="What was learned")
    exits = sum(name not in VOTES for name in after)
    for name, verdict in after.items():
        if name in VOTES and exits == 1:
            continue  # they all say what it says
        was = before.get(name)
        table.add_row(name, *(
            now if was is None else f"{then} -> {now}"
            for now, then in zip(_cells(verdict), _cells(was or verdict), strict=True)
        ))  # fmt: skip
    return table


def _cells(verdict: Verdict) -> tuple[str, str, str]:
    return f"{verdict.loss:.3f}", f"{verdict.likeliest:.1%}", f"{verdict.right:.1%}"
