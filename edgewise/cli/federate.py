"""`edgewise federate`: adapt a model where the data is."""

import json
import os
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from rich.markup import escape
from rich.table import Table

from edgewise.adapters import Kind
from edgewise.cli.adapting import FederateOptions
from edgewise.cli.terminal import console, print_json, print_notes, progress
from edgewise.errors import DeviceTimeout, EdgewiseError, InputError
from edgewise.federation.settings import FederatedSettings
from edgewise.models.checkpoint import open_checkpoint
from edgewise.models.tokenizer import load_tokenizer
from edgewise.tuning.lessons import lessons_of
from edgewise.tuning.records import read_records
from edgewise.units import format_bytes

POLL = 0.3  # seconds
SILENT = 120.0  # seconds that a server may take beside what it asks devices


def run_federate(options: FederateOptions) -> None:
    """Start Flower, follow the rounds, end it; the adapters are in --out."""
    settings, data = settings_of(options), data_of(options.data_on)
    tokenizer = load_tokenizer(settings.model)
    for path in filter(None, data.values()):  # what is wrong is said before anything is started
        lessons_of(read_records(path), tokenizer, settings.longest)
    open_checkpoint(settings.model)
    with _folder(options.keep) as folder:
        events = list(_shown(_followed(Path(folder), settings, data, options), options, settings))
    rounds = [event for event in events if event["event"] == "round"]
    console(options.as_json).print(rounds_table(rounds))
    console(options.as_json).print(f"adapters: {options.out}")
    if options.as_json:
        print_json({
            "model": options.model, "devices": sorted(data), "out": str(options.out),
            "settings": settings.to_config(), "rounds": rounds,
            "notes": [event["text"] for event in events if event["event"] == "note"],
        })  # fmt: skip


def settings_of(options: FederateOptions) -> FederatedSettings:
    """Raises InputError."""
    kind = Kind.LORA if options.lora else Kind.PRIVATE
    return FederatedSettings(
        options.model, options.scheme, options.algorithm, kind, options.rank, 2.0 * options.rank,
        options.blocks, options.rounds, options.steps, options.batch, options.rate,
        options.rate_falls_to, options.longest, options.held_out, options.proximal,
        options.momentum, options.trim, options.leaders, options.epsilon, options.delta,
        options.clip, options.seed,
    )  # fmt: skip


def data_of(given: list[str]) -> dict[str, Path | None]:
    """DEVICE=FILE, by device; without a file it is of another machine. Raises InputError."""
    data = dict[str, Path | None]()
    for item in given:
        name, equals, path = item.partition("=")
        if not (equals and name.replace("-", "").replace("_", "").isalnum()):
            raise InputError(f"--data-on '{item}': write DEVICE=FILE, DEVICE of letters and digits")
        if name == "superlink":
            raise InputError("--data-on: 'superlink' is what the server is called: take another")
        if name in data:
            raise InputError(f"--data-on: '{name}' is given twice")
        data[name] = Path(path) if path else None
    if len(data) < 2:
        raise InputError("--data-on: at least two devices learn together")
    return data


def _followed(
    folder: Path,
    settings: FederatedSettings,
    data: dict[str, Path | None],
    options: FederateOptions,
) -> Iterator[dict[str, Any]]:
    """The events of a run, as they come. Raises EdgewiseError where it fails."""
    try:
        from edgewise.federation.flower.processes import (
            FlowerDevice,
            check_running,
            line_for,
            start_run,
            super_link,
        )
    except ImportError:
        raise InputError("Flower is not installed: pip install 'edgewise[federated]'") from None
    here = sum(path is not None for path in data.values())
    threads = max((os.cpu_count() or 1) // max(here, 1), 1)
    devices = [FlowerDevice(name, path, threads) for name, path in data.items()]
    log = folder / "events.jsonl"
    log.write_text("", encoding="utf-8")
    config = {
        **settings.to_config(), "events": str(log), "out": str(options.out.resolve()),
        "least": len(devices), "deadline": options.deadline,
    }  # fmt: skip
    opened = super_link(folder, devices, options.host, options.port)
    with opened as link, log.open(encoding="utf-8") as events:
        for device in devices:
            if device.data is None:
                yield {"event": "note", "text": f"start there: {line_for(link, device)}"}
        start_run(link, config)
        yield {"event": "started", "nodes": {x: y.pid for x, y in link.nodes.items()}}
        heard, begun = time.monotonic(), False
        while True:
            if line := _line(events.readline):
                heard = time.monotonic()
                event = json.loads(line)
                begun = begun or event["event"] == "begin"
                if event["event"] == "failed":
                    raise EdgewiseError(f"{event['type']}: {event['message']}")
                yield event
                if event["event"] == "done":
                    return
                continue
            check_running(link, begun)
            if time.monotonic() - heard > (most := 2 * options.deadline + SILENT):
                raise DeviceTimeout("superlink", f"said nothing for {most:g} s")
            time.sleep(POLL)


def _line(readline: Callable[[], str]) -> str:
    """A whole line: one that is being written is waited for."""
    line = readline()
    while line and not line.endswith("\n"):
        time.sleep(POLL)
        line += readline()
    return line


def _shown(
    events: Iterator[dict[str, Any]], options: FederateOptions, settings: FederatedSettings
) -> Iterator[dict[str, Any]]:
    with progress("learning", settings.rounds, options.as_json) as advance:
        for event in events:
            if event["event"] == "round":
                advance(_words(event))
            elif event["event"] == "note":
                print_notes([event["text"]])
            yield event


def _words(event: dict[str, Any]) -> str:
    moved = format_bytes(event["down_bytes"] + event["up_bytes"])
    loss = "" if event["loss"] is None else f"loss {event['loss']:.3f}, "
    utility = "" if event["utility"] is None else f"utility {event['utility']:.3f}, "
    return f"{loss}{utility}{len(event['answered'])} answered, {moved}"


def rounds_table(rounds: list[dict[str, Any]]) -> Table:
    """A row for each; what devices call themselves is text, whatever they call themselves."""
    columns = ("round", "loss", "utility", "leader", "answered", "silent", "down", "up")
    table = Table(*columns, title="What was learned")
    for x in rounds:
        numbers = ("-" if x[name] is None else f"{x[name]:.3f}" for name in ("loss", "utility"))
        texts = (
            str(x["number"]), *numbers, x["leader"] or "-", str(len(x["answered"])),
            ", ".join([*x["silent"], *x["refused"]]) or "-",
            format_bytes(x["down_bytes"]), format_bytes(x["up_bytes"]),
        )  # fmt: skip
        table.add_row(*map(escape, texts))
    return table


def _folder(keep: Path | None) -> AbstractContextManager[str]:
    if keep is None:
        return TemporaryDirectory(prefix="edgewise-federate-")
    keep.mkdir(parents=True, exist_ok=True)
    return nullcontext(str(keep.resolve()))
