"""`edgewise tune`: adapt a model to records."""

import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, replace

import psutil
import torch
from rich.table import Table

from edgewise.adapters import AdapterConfig, Kind
from edgewise.adapters.low_rank import MATRICES
from edgewise.cli.adapting import TuneOptions
from edgewise.cli.terminal import console, print_json, print_notes, progress
from edgewise.cluster_files import load_cluster
from edgewise.errors import DeviceError, InputError
from edgewise.models.checkpoint import Checkpoint, open_checkpoint
from edgewise.models.tokenizer import load_tokenizer
from edgewise.models.votes import VOTES
from edgewise.runtime.local import start_local
from edgewise.runtime.workers import Workers
from edgewise.tuning import checkpoints
from edgewise.tuning.devices import PROGRAM, TrainingOnDevices, rehearse
from edgewise.tuning.judging import Verdict
from edgewise.tuning.kept import fewest_again, kept_by
from edgewise.tuning.lessons import Lesson, batch_of, drawn, lessons_of, split
from edgewise.tuning.loading import load_tunable, save_tuned
from edgewise.tuning.method import TuningMethod
from edgewise.tuning.model import Tunable, Window
from edgewise.tuning.placing import WindowCost, WindowPlace, place
from edgewise.tuning.private_devices import PrivateTraining
from edgewise.tuning.recipe import Recipe, rate_of
from edgewise.tuning.records import read_records
from edgewise.tuning.training import Training, TrainingStep
from edgewise.units import format_bytes, parse_bytes

KEPT_EVERY = 20.0  # seconds between checkpoints


def run_tune(options: TuneOptions) -> None:
    """Learn what the records say, judge by those held out, and keep the adapters."""
    quiet, checkpoint = options.as_json, open_checkpoint(options.model)
    tokenizer, recipe = load_tokenizer(options.model), recipe_of(options)
    lessons = lessons_of(read_records(options.data), tokenizer, options.longest)
    learned, held_out = split(lessons, options.held_out, options.seed)
    key = checkpoints.key_of(checkpoint, options.scheme, recipe, learned)
    with begun(options, checkpoint, recipe, learned) as training:
        if checkpoints.restore(training, options.out, key):
            console(quiet).print(f"going on after step {training.done} of {recipe.steps}")
        before = training.judge(held_out) if training.done == 0 else {}
        steps = _train(training, options, key)
        after = training.judge(held_out)
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


@contextmanager
def begun(
    options: TuneOptions, checkpoint: Checkpoint, recipe: Recipe, learned: Sequence[Lesson]
) -> Iterator[Training | TrainingOnDevices]:
    """A training as it begins, in this process or on the devices of a cluster."""
    windows, quiet = recipe.windows(checkpoint.config.num_blocks), options.as_json
    if options.cluster is None:
        with progress("loading", checkpoint.config.num_layers, quiet) as advance:
            model = load_tunable(checkpoint, options.scheme, recipe.adapter, windows, advance)
        if options.keep is not None:
            recipe = _keeping(options.keep, model, recipe, learned)
        yield Training(model, recipe, learned)
        return
    if options.keep is not None:
        raise InputError("--keep is for one device: leave --cluster out, or make windows smaller")
    with start_local(load_cluster(options.cluster), PROGRAM) as workers:
        if options.method is TuningMethod.PRIVATE:
            told = checkpoint.spec, options.model, options.scheme, recipe
            private = PrivateTraining(workers, *told, learned, _said)
            console(quiet).print(_blocks(private, recipe))
            yield private
        else:
            yield _on_devices(workers, options, checkpoint, recipe, learned)


def _on_devices(
    workers: Workers,
    options: TuneOptions,
    checkpoint: Checkpoint,
    recipe: Recipe,
    learned: Sequence[Lesson],
) -> TrainingOnDevices:
    """Windows where they are quickest, by a step of each device."""
    windows, quiet = recipe.windows(checkpoint.config.num_blocks), options.as_json
    told = options.model, options.scheme, recipe
    batch = drawn(learned, recipe.batch, 0, recipe.seed)
    with progress("timing a window", len(workers.names), quiet) as advance:
        costs = rehearse(workers, *told, windows[-1], batch, advance)
    states = 4 * batch_of(batch).tokens.numel() * checkpoint.config.hidden_size

    def places(workers: Workers) -> Sequence[WindowPlace]:
        there = {name: costs[name] for name in workers.names}
        places, seconds = place(there, workers.cluster, len(windows), states)
        console(quiet).print(_places(places, windows, there, seconds))
        return places

    return TrainingOnDevices(workers, places, *told, windows, learned, _said)


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


def _said(lost: DeviceError) -> None:
    print_notes([f"{lost}; going on without it, from the last checkpoint"])


def _keeping(most: str, model: Tunable, recipe: Recipe, learned: Sequence[Lesson]) -> Recipe:
    """The recipe with as few blocks that run again as a step of the longest lessons allows."""
    try:
        most_bytes = parse_bytes(most)
    except ValueError as error:
        raise InputError(f"--keep: {error}") from None
    longest = sorted(learned, key=lambda lesson: len(lesson.tokens))[-recipe.batch :]
    window, batch = model.windows[-1], batch_of(longest)
    states = torch.zeros(*batch.tokens.shape, model.config.hidden_size)
    again = fewest_again(model, window, batch, states, most_bytes)
    if again is None:
        least = kept_by(model, window, batch, states, window.end - window.first)
        raise InputError(
            f"a step keeps {format_bytes(least)} even where all blocks run again: allow more than "
            f"{most}, or take smaller batches with --batch"
        )
    return replace(recipe, again=again)


def _places(
    places: Sequence[WindowPlace],
    windows: Sequence[Window],
    costs: Mapping[str, WindowCost],
    seconds: float,
) -> Table:
    table = Table("device", "blocks", "a batch there", title=f"{seconds:.2f} s a batch")
    for placed in places:
        blocks = f"{windows[placed.first].first}-{windows[placed.end - 1].end - 1}"
        there = costs[placed.device].seconds(placed.end - placed.first)
        table.add_row(placed.device, blocks, f"{there:.2f} s")
    return table


def _blocks(training: PrivateTraining, recipe: Recipe) -> Table:
    """Where blocks are, and what that costs the links."""
    numbers = len(recipe.adapter.matrices) * recipe.adapter.rank
    title = f"M stays on the source; {numbers} numbers a block and token cross, four times a step"
    table = Table("device", "blocks", title=title)
    for device, blocks in training.blocks.items():
        table.add_row(device, f"{blocks.start}-{blocks.stop - 1}")
    return table


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
