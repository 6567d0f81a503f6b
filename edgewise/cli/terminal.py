"""What commands read from standard input, and what they print: tables and progress for people,
JSON for programs."""

import json
import math
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from types import MappingProxyType

from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, SpinnerColumn, TextColumn
from rich.table import Column, Table

from edgewise.clusters import Cluster
from edgewise.errors import EdgewiseError, Infeasible, PromptError
from edgewise.estimates import Estimate
from edgewise.planning import PlanResult
from edgewise.profiles import Profile
from edgewise.units import format_bytes, format_rate, format_seconds

Advance = Callable[[object], None]

SURE = (
    "\N{PLUS-MINUS SIGN}: how far measured layers are off the profile's regressions; errors of "
    "equal layers add up, those of unlike ones as squares"
)


def console(as_json: bool) -> Console:
    """Where a command talks to people: nowhere under --json."""
    return Console(quiet=as_json, highlight=False)


def input_lines() -> Iterator[str]:
    """Of standard input, as they come. Raises PromptError where it is no text."""
    try:
        yield from sys.stdin
    except UnicodeError as error:
        raise PromptError(
            f"standard input is not text in the terminal's encoding: {error}"
        ) from None


@contextmanager
def progress(what: str, total: int | None, as_json: bool) -> Iterator["Advance"]:
    """A progress bar on standard error, a pulse where nobody knows how many steps there will be;
    nothing where nobody watches."""
    screen = Console(stderr=True)
    shown = screen.is_terminal and not as_json
    columns = (
        SpinnerColumn(),
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("[dim]{task.fields[item]}"),
    )
    with Progress(*columns, console=screen, disable=not shown, transient=True) as bar:
        task = bar.add_task(what, total=total, item="")
        yield lambda item: bar.update(task, advance=1, item=str(item))


def bars(quiet: bool) -> Callable[[str, int | None], AbstractContextManager[Advance]]:
    """Progress bars, for what shows how it goes (`Show` in quality/rounding.py)."""
    return lambda what, total: progress(what, total, quiet)


def print_notes(notes: Sequence[str]) -> None:
    """What users should know, on stderr."""
    for note in notes:
        Console(stderr=True, highlight=False, soft_wrap=True).print(f"note: {escape(note)}")


def print_text(text: str) -> None:
    """A piece of an answer, at once."""
    sys.stdout.write(text)
    sys.stdout.flush()


def print_json(document: object) -> None:
    """One document for programs. JSON knows neither NaN nor infinity; raises EdgewiseError where
    a command came to one."""
    try:
        text = json.dumps(document, allow_nan=False)
    except ValueError:
        where = _non_finite(document) or ("?", None)
        raise EdgewiseError(
            f"'{where[0]}' came out as {where[1]}, which is no number that JSON can hold"
        ) from None
    print_text(text + "\n")


def finite(number: float | None) -> float | None:
    """A number as JSON holds it: None where it is not known, or without bound."""
    return number if number is not None and math.isfinite(number) else None


def finite_values(values: dict[str, object]) -> dict[str, object]:
    """The same for JSON, where an unlimited rate is null."""
    return {key: None if value == math.inf else value for key, value in values.items()}


def _non_finite(value: object, where: str = "") -> tuple[str, object] | None:
    """The path to the first number that is not finite, and that number."""
    if isinstance(value, float):
        return None if math.isfinite(value) else (where, value)
    if isinstance(value, dict):
        parts = [(str(key), part) for key, part in value.items()]
    else:
        parts = (
            [(str(i), x) for i, x in enumerate(value)] if isinstance(value, list | tuple) else []
        )
    bad = (_non_finite(part, f"{where}.{key}".lstrip(".")) for key, part in parts)
    return next((x for x in bad if x is not None), None)


def cluster_table(cluster: Cluster) -> Table:
    table = Table("device", "memory", "threads", "slowdown", "network", title="Devices")
    for device in cluster.devices:
        interface = device.interface_bytes_per_second
        links = [f"each way {format_rate(interface)} at most"] if interface < math.inf else []
        links += [
            f"{escape(link.target)}: {format_rate(link.bytes_per_second)}, "
            f"{format_seconds(link.latency_seconds)}"
            for link in cluster.all_links()
            if link.source == device.name
        ]
        star = " (source)" if device.name == cluster.source else ""
        disk = device.disk_bytes_per_second
        table.add_row(
            escape(device.name) + star,
            format_bytes(device.memory_bytes) + (f", disk {format_bytes(disk)}/s" if disk else ""),
            str(device.threads),
            f"{device.slowdown:g}x",
            "\n".join(links),
        )
    return table


def comparison_table(
    outcomes: Mapping[str, PlanResult | Infeasible],
    chosen: str | None,
    losses: Mapping[str, str] = MappingProxyType({}),
) -> Table:
    """A row for each of these plans, with what it loses where that is known of any."""
    shown = ("loss",) if losses else ()
    planner = Column("planner", overflow="fold")  # paths of checkpoints are long
    table = Table(planner, "ms/token", *shown, "memory", "plan", title="Plans (predicted)")
    for name, outcome in outcomes.items():
        loss = (losses.get(name, "-"),) if losses else ()
        if isinstance(outcome, Infeasible):
            empty = "-" * (2 + len(loss))
            table.add_row(escape(name), *empty, escape(f"does not fit: {outcome}"))
        else:
            estimate = outcome.estimate
            table.add_row(
                escape(name) + (" *" if name == chosen else ""),
                f"{estimate.decode_seconds * 1e3:.2f}{_spread(estimate)}",
                *loss,
                format_bytes(sum(estimate.memory_bytes.values())),
                escape("\n".join(map(str, outcome.plan.stages))),
            )
    return table


def _spread(estimate: Estimate) -> str:
    """How sure the time per token is."""
    error = estimate.decode_error
    return "" if error is None else f" \N{PLUS-MINUS SIGN} {error * 100:.0f} %"


def timing_table(estimate: Estimate, measured: list[float], total: float) -> Table:
    """Predicted against measured milliseconds per token, per stage and in all."""
    table = Table("part", "predicted ms", "measured ms", "difference", title="Time per token")
    for part, seconds in zip(estimate.stages, measured, strict=True):
        table.add_row(escape(str(part.stage)), *_compared(part.decode_seconds, seconds))
    hops = sum(part.hop_seconds for part in estimate.stages) + estimate.return_seconds
    table.add_row("links", *_compared(hops, total - sum(measured)))
    table.add_section()
    table.add_row("all", *_compared(estimate.decode_seconds, total))
    return table


def _compared(predicted: float, measured: float) -> tuple[str, str, str]:
    difference = f"{(measured / predicted - 1) * 100:+.0f} %" if predicted else "-"
    return f"{predicted * 1e3:.2f}", f"{measured * 1e3:.2f}", difference


def comparison_json(outcomes: dict[str, PlanResult | Infeasible]) -> list[dict[str, object]]:
    """The comparison for programs."""
    return [
        {
            "planner": name,
            "feasible": False,
            "reason": str(outcome),
            "shortage_bytes": outcome.shortage_bytes,
            "predicted_seconds_per_token": None,
        }
        if isinstance(outcome, Infeasible)
        else {
            "planner": name,
            "feasible": True,
            "predicted_seconds_per_token": outcome.estimate.decode_seconds,
            "predicted_error": outcome.estimate.decode_error,
            "predicted_prefill_seconds": outcome.estimate.prefill_seconds,
            "predicted_prefill_error": outcome.estimate.prefill_error,
            "memory_bytes": outcome.estimate.memory_bytes,
            "predicted_tokens_per_second": outcome.estimate.tokens_per_second,
            "predicted_loss": finite(outcome.estimate.loss),
            "status": outcome.status,
            "gap": finite(outcome.gap),
            "planning_seconds": outcome.seconds,
            "explanation": outcome.explanation,
            "stages": [
                {
                    "device": s.device,
                    "start": s.start,
                    "end": s.end,
                    "schemes": list(s.schemes),
                    "streamed": list(s.streamed),
                }
                for s in outcome.plan.stages
            ],
        }
        for name, outcome in outcomes.items()
    ]


def plan_table(result: PlanResult) -> Table:
    """One plan: its stages, their schemes, time and memory, and why it is so."""
    estimate, caption = result.estimate, escape(result.explanation)
    if estimate.decode_error is not None:
        caption += f"\n{SURE}"
    seconds = f"{estimate.decode_seconds * 1e3:.2f} ms{_spread(estimate)}"
    title = f"{result.planner}: {seconds} per token (predicted)"
    table = Table("stage", "ms/token", "hop ms", title=title, caption=caption)
    for part in estimate.stages:
        times = f"{part.decode_seconds * 1e3:.2f}", f"{part.hop_seconds * 1e3:.2f}"
        table.add_row(escape(str(part.stage)), *times)
    table.add_row("back to the source", "", f"{estimate.return_seconds * 1e3:.2f}")
    return table


def profile_table(profile: Profile, context: int) -> Table:
    """Milliseconds of each class of layers, decoding one token at a middle context, and their
    weights."""
    title = f"Milliseconds per token after {context} tokens"
    table = Table("device", "scheme", "step", *profile.classes, title=title)
    sizes = {(x.device, x.scheme, x.layer): format_bytes(x.weight_bytes) for x in profile.memory}
    for device in (reading.device for reading in profile.devices):
        for scheme in profile.schemes:
            layers = (
                f"{profile.decode_seconds(device, layer, scheme, context) * 1e3:.3f} "
                f"({sizes.get((device, scheme, layer), '-')})"
                for layer in profile.classes
            )
            step = f"{profile.reading(device).step_seconds * 1e3:.3f}"
            table.add_row(escape(device), scheme, step, *layers)
    return table
