"""`edgewise serve`: a model behind OpenAI's API, until it is told to end."""

import os
import secrets
import signal
import sys
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace

from rich.console import Console

from edgewise.adapters.private import PrivateAdapter, private_adapter
from edgewise.batching import POLICIES
from edgewise.cli.commands import workload_of
from edgewise.cli.ending import end_now
from edgewise.cli.joining import LOOPBACK
from edgewise.cli.options import named_folders
from edgewise.cli.sharing import ServeOptions, ServingOptions
from edgewise.cli.terminal import bars, console, print_json, print_notes
from edgewise.cli.this_device import parse_address, this_device
from edgewise.cluster_files import load_cluster
from edgewise.clusters import Cluster, Device
from edgewise.errors import InputError
from edgewise.hosting import Chooser, Event, Host, Measured, Overview
from edgewise.models.checkpoint import Checkpoint, open_checkpoint
from edgewise.models.tokenizer import load_tokenizer
from edgewise.opening.adapters import open_adapters, with_private, with_room
from edgewise.opening.by_quality import LossBudget
from edgewise.opening.private import planned_privately
from edgewise.opening.wanted import check_private, check_wish
from edgewise.planning.joint import quick_joint
from edgewise.profiling import Grid
from edgewise.runtime.coordinator.adapters import Adapters
from edgewise.runtime.coordinator.workers import Workers
from edgewise.runtime.launchers import Launcher
from edgewise.runtime.launchers.local import LocalLauncher
from edgewise.runtime.limits import limits_of
from edgewise.runtime.live import start_on_ray
from edgewise.runtime.local import start_local
from edgewise.schemes import Wire
from edgewise.serving import AdapterShelf, Gate, HttpServer, Model, create_app
from edgewise.specs import ModelSpec, Vote, Workload
from edgewise.units import format_bytes, parse_bytes

REPEATS = 9  # of every timing: whoever joined is waited for
LATER_BYTES = 256 * 10**6  # for adapters that are loaded while a server runs
KEY = "EDGEWISE_API_KEY"
TOKEN_FIRST = "export RAY_AUTH_MODE=token RAY_AUTH_TOKEN=...  # as `ray get-auth-token` says here"


@dataclass(frozen=True, slots=True)
class Started:
    """Devices that run, `launcher` for those that join, and the `lines` that make machines join,
    the last one itself."""

    workers: Workers
    launcher: Launcher
    lines: tuple[str, ...] = ()


def run_serve(options: ServeOptions) -> None:
    """Nobody joins, but nodes of a Ray cluster."""
    if options.cluster and options.address:
        raise InputError("--cluster and --address both say which devices there are: give one")
    if options.address:
        parse_address(options.address, "--address")
    named = load_cluster(options.cluster) if options.cluster else None

    def start(device: Device) -> Started:
        if options.address:
            return on_ray(device, LOOPBACK[0], options.address)
        cluster = named or Cluster((device,), (), device.name)
        return Started(start_local(cluster), LocalLauncher(lambda ended: None))

    serve(options, start)


def on_ray(device: Device, host: str, address: str | None = None) -> Started:
    """This machine and the nodes of its Ray cluster."""
    workers, nodes, line = start_on_ray(device, host, address)
    return Started(workers, nodes, (TOKEN_FIRST, line))


def serve(options: ServingOptions, start: Callable[[Device], Started]) -> None:
    """Until interrupted: the first time, requests under way are answered before it ends."""
    _check_wish(options)
    http = parse_address(options.http, "--http")
    device = this_device(options.name, options.memory, options.threads, disk=options.disk)
    checkpoint = open_checkpoint(options.model)
    print_notes(checkpoint.notes)
    spec, tokenizer = checkpoint.spec, load_tokenizer(options.model)
    vote = options.vote or Vote.CONFIDENCE
    named = open_adapters(named_folders(options.adapter or ()), checkpoint, vote)
    workload = workload_of(options, options.kv_cache, options.wire)
    private, quality = _private_of(options, checkpoint), _quality_of(options, spec)
    workload = _with_room(options, spec.num_blocks, with_room(workload, named.values()))
    workload = with_private(workload, private, checkpoint.config)
    limits = limits_of(workload, spec.max_context)
    screen = console(options.as_json)

    def on_event(event: Event) -> None:
        screen.print(f"[dim]{event.seconds:7.1f} s[/]  {event.text}")
        if options.as_json:
            print_json(asdict(event))

    started = start(device)
    with started.workers as workers:
        grid = replace(Grid.serving(workload), repeats=REPEATS)
        measured = Measured(workers, options.model, spec, grid)
        join = started.lines[-1] if started.lines else ""
        overview = Overview(options.model, spec, join, on_event)
        how = options.scheme, options.objective, POLICIES[options.policy], quality
        planner = quick_joint if private is None else planned_privately
        chooser = Chooser(workers, measured, spec, workload, *how, overview.say, planner)
        what = options.model, workers, started.launcher, measured, chooser, workload, overview
        held = Adapters(workers, workload.adapter_bytes, named, workload.exit_bytes)
        host = Host(*what, held, private and replace(private, source=workers.cluster.source))
        key, gate = _key(http[0]), Gate()
        share = limits.cache_tokens // limits.sequences
        model = Model(options.model, tokenizer, limits.context, spec.vocab_size, share)
        shelf = AdapterShelf(options.adapters_from, checkpoint.config, spec.digest, vote)
        app = create_app(host, model, key, options.cors or (), gate, shelf)
        server = HttpServer(app, *http)
        try:
            url = f"http://{http[0]}:{server.port}/v1"
            made = key if key != os.environ.get(KEY) else ""  # whoever chose one knows it
            _print_address(screen, options.model, url, made, started.lines)
            if options.as_json:
                print_json({"url": url, "join": join, "key": made})
            _on_interrupt(host, gate)
            host.run()
        finally:
            gate.close()  # who waits is told that by now, and nobody else comes
            server.close()


def _print_address(screen: Console, model: str, url: str, key: str, lines: Sequence[str]) -> None:
    screen.print(f"[bold]{model}[/] at {url}" + (f", key {key}" if key else ""))
    screen.print(f"What it does, and a chat: {url.removesuffix('/v1')}")
    if lines:
        screen.print("To lend another machine to it, run there:")
    for line in lines:
        screen.print(f"  [bold]{line}[/]", soft_wrap=True)


def _check_wish(options: ServingOptions) -> None:
    """Raises InputError where not all of it can be kept."""
    check_wish(None, options.scheme, options.quality)
    if options.private is not None:
        check_private(options.quality)
    if options.quality is not None and options.wire is not Wire.FP32:
        raise InputError(
            f"--wire {options.wire} loses by where a plan cuts the model, which changes with the "
            "devices: --quality cannot be promised with it; give one of them"
        )


def _with_room(options: ServingOptions, blocks: int, work: Workload) -> Workload:
    """What those given need, and room for those that come later. Raises InputError."""
    room = _block_room(options, blocks, work.adapter_bytes)
    votes_later = options.vote is not None and options.adapters_from is not None
    exits = max(work.exit_bytes, room * blocks) if votes_later else work.exit_bytes
    return replace(work, adapter_bytes=room, exit_bytes=exits)


def _block_room(options: ServingOptions, blocks: int, needed: int) -> int:
    """Bytes for adapters in every block, where those given need so many. Raises InputError."""
    folder = options.adapters_from
    if folder is not None and not folder.is_dir():
        raise InputError(f"--adapters-from {folder}: no such folder")
    if options.adapter_room is None:
        return needed + (LATER_BYTES // blocks if folder is not None else 0)
    try:
        room = parse_bytes(options.adapter_room) // blocks
    except ValueError as error:
        raise InputError(f"--adapter-room: {error}") from None
    if room < needed:
        raise InputError(
            f"--adapter-room {options.adapter_room}: the adapters given take "
            f"{format_bytes(needed * blocks)}"
        )
    return room


def _private_of(options: ServingOptions, checkpoint: Checkpoint) -> PrivateAdapter | None:
    """Of a source that is not known yet. Raises InputError where it will not do."""
    return None if options.private is None else private_adapter(options.private, checkpoint, "")


def _quality_of(options: ServingOptions, spec: ModelSpec) -> LossBudget | None:
    """What layers lose is measured before any process starts, where it is not known."""
    if options.quality is None:
        return None
    return LossBudget.of(options.model, options.quality, spec, bars(options.as_json))


def _key(http: str) -> str:
    """Beyond this machine, nobody is answered without one."""
    given = os.environ.get(KEY, "")
    if given or http in LOOPBACK:
        return given
    return secrets.token_urlsafe(24)


def _on_interrupt(host: Host, gate: Gate) -> None:
    """The first time, end once all requests are answered; the second time at once, whatever the
    host is at, and so the first time where it has never answered any."""

    def interrupt(signum: int, frame: object) -> None:
        gate.close()
        answers = host.stop(drain=True)
        for each in (signal.SIGINT, signal.SIGTERM):
            signal.signal(each, end_now if answers else signal.SIG_IGN)
        if not answers:
            sys.exit()

    for each in (signal.SIGINT, signal.SIGTERM):
        signal.signal(each, interrupt)
