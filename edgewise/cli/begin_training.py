"""A training as it begins: in this process, on the devices of a cluster file, or on machines that
joined."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace

import torch
from rich.markup import escape
from rich.table import Table

from edgewise.cli.adapting import TuneOptions
from edgewise.cli.joining import start_listening
from edgewise.cli.options import LISTEN
from edgewise.cli.terminal import console, print_json, print_notes, progress
from edgewise.cli.this_device import parse_address, this_device
from edgewise.cluster_files import load_cluster
from edgewise.clusters import Link
from edgewise.errors import DeviceError, InputError
from edgewise.models.checkpoint import Checkpoint
from edgewise.profiling import measure_links
from edgewise.runtime.coordinator.gathering import wait_for_machines
from edgewise.runtime.coordinator.workers import Workers
from edgewise.runtime.local import start_local
from edgewise.runtime.messages import WorkerProgram
from edgewise.tuning.devices import TrainingOnDevices, rehearse
from edgewise.tuning.kept import fewest_again, kept_by
from edgewise.tuning.lessons import Lesson, batch_of, longest_of
from edgewise.tuning.loading import load_tunable
from edgewise.tuning.method import TuningMethod
from edgewise.tuning.model import Tunable, Window
from edgewise.tuning.placing import WindowCost, WindowPlace, place
from edgewise.tuning.private_devices import PrivateTraining
from edgewise.tuning.recipe import Recipe
from edgewise.tuning.training import Training
from edgewise.units import format_bytes, parse_bytes

WAIT_SECONDS = 600.0


def check_where(options: TuneOptions) -> None:
    """Raises InputError where not all that is said of devices and their memory can be meant."""
    given = {"--wait": options.wait, "--listen": options.listen, "--new-keys": options.new_keys}
    if options.join is None and (alone := [name for name, value in given.items() if value]):
        raise InputError(f"{alone[0]} is for machines that join: say how many with --join")
    if options.join is not None and options.cluster is not None:
        raise InputError("--cluster and --join both say which devices there are: give one")
    elsewhere = "--cluster" if options.cluster is not None else "--join" if options.join else ""
    if elsewhere and options.keep is not None:
        raise InputError(
            f"--keep is for one device: leave {elsewhere} out, or make windows smaller"
        )
    if options.keep is not None:
        _most_kept(options.keep)


@contextmanager
def begun(
    options: TuneOptions, checkpoint: Checkpoint, recipe: Recipe, learned: Sequence[Lesson]
) -> Iterator[Training | TrainingOnDevices]:
    """A training before its first step. Raises what keeps it from beginning."""
    if options.cluster is None and options.join is None:
        yield _in_this_process(options, checkpoint, recipe, learned)
        return
    with _workers(options) as workers:
        if options.method is TuningMethod.PRIVATE:
            told = checkpoint.spec, options.model, options.scheme, recipe
            private = PrivateTraining(workers, *told, learned, _said)
            console(options.as_json).print(_blocks(private, recipe))
            yield private
        else:
            yield _on_devices(workers, options, checkpoint, recipe, learned)


def _in_this_process(
    options: TuneOptions, checkpoint: Checkpoint, recipe: Recipe, learned: Sequence[Lesson]
) -> Training:
    windows = recipe.windows(checkpoint.config.num_blocks)
    with progress("loading", checkpoint.config.num_layers, options.as_json) as advance:
        model = load_tunable(checkpoint, options.scheme, recipe.adapter, windows, advance)
    if options.keep is not None:
        recipe = _keeping(options.keep, model, recipe, learned)
    return Training(model, recipe, learned)


@contextmanager
def _workers(options: TuneOptions) -> Iterator[Workers]:
    """Of a cluster file's devices, or of this machine and those that joined it."""
    if options.join is None:
        assert options.cluster is not None
        with start_local(load_cluster(options.cluster), WorkerProgram.TUNE) as workers:
            yield workers
        return
    listen = parse_address(options.listen or LISTEN, "--listen")
    here, screen = this_device(None, None, None), console(options.as_json)
    workers, agents, line = start_listening(here, listen, options.new_keys, WorkerProgram.TUNE)
    with workers:
        screen.print(f"On each of the machines to learn on ({options.join}), run:")
        screen.print(f"  [bold]{line}[/]", soft_wrap=True)
        if options.as_json:
            print_json({"join": line})
        seconds = options.wait or WAIT_SECONDS
        wait_for_machines(
            workers, agents, options.join, seconds, lambda text: screen.print(escape(text))
        )
        yield workers


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
    with progress("timing a window", len(workers.names), quiet) as advance:
        costs = rehearse(workers, *told, windows[-1], learned, advance)
    batch = batch_of(longest_of(learned, recipe.batch))
    states = 4 * batch.tokens.numel() * checkpoint.config.hidden_size
    links = _links(workers, options)

    def places(workers: Workers) -> Sequence[WindowPlace]:
        there = {name: costs[name] for name in workers.names}
        cluster = workers.cluster if links is None else workers.cluster.linked_by(links)
        places, seconds = place(there, cluster, len(windows), states)
        console(quiet).print(_places(places, windows, there, seconds))
        return places

    return TrainingOnDevices(workers, places, *told, windows, learned, _said)


def _links(workers: Workers, options: TuneOptions) -> tuple[Link, ...] | None:
    """What connects machines that joined is measured; a file says it of its own."""
    if options.join is None:
        return None
    with progress("measuring links", None, options.as_json) as advance:
        return measure_links(workers, on_progress=advance)


def _said(lost: DeviceError) -> None:
    print_notes([f"{lost}; going on without it, from the last checkpoint"])


def _keeping(most: str, model: Tunable, recipe: Recipe, learned: Sequence[Lesson]) -> Recipe:
    """The recipe with as few blocks that run again as a step of the longest lessons allows."""
    window, batch = model.windows[-1], batch_of(longest_of(learned, recipe.batch))
    states = torch.zeros(*batch.tokens.shape, model.config.hidden_size)
    again = fewest_again(model, window, batch, states, _most_kept(most))
    if again is None:
        least = kept_by(model, window, batch, states, window.end - window.first)
        raise InputError(
            f"a step keeps {format_bytes(least)} even where all blocks run again: allow more than "
            f"{most}, or take smaller batches with --batch"
        )
    return replace(recipe, again=again)


def _most_kept(most: str) -> int:
    """Bytes. Raises InputError."""
    try:
        return parse_bytes(most)
    except ValueError as error:
        raise InputError(f"--keep: {error}") from None


def _places(
    places: Sequence[WindowPlace],
    windows: Sequence[Window],
    costs: Mapping[str, WindowCost],
    seconds: float,
) -> Table:
    table = Table("device", "blocks", "a batch there", title=f"{seconds:.2f} s a batch at most")
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
