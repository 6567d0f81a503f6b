"""EdgeShard's question asked of running processes: which plan is quickest at which bandwidth, and
does it take as long as predicted?"""

import contextlib
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import asdict
from functools import partial
from typing import Any

from edgewise.plots import save_lines
from edgewise.studies.page import Figure, OnStep, Page, Section, Value
from edgewise.studies.testbed.machines import Machine, Machines
from edgewise.studies.testbed.runs import METHODS, Setting
from edgewise.units import parse_bytes

MODEL, SCHEME = "smollm2", "q8g32"
MBPS = (1, 5, 10, 50)
SECONDS = 900.0  # for all plans at one rate
SOURCE = Machine("nano", 4.0, "1 GB")
OTHERS = (Machine("orin", 1.5, "1 GB"), Machine("pi", 2.5, "80 MB"))
TEXT = (
    "SmolLM2-135M on three devices of this machine: network namespaces with a token bucket each, "
    "and processors that take {slowdowns} times as long as a core; nano is the source. What the "
    "model's layers and the links take was measured, every planner planned with that, and every "
    "plan ran: predicted beside measured."
)


def testbed_page(on_step: OnStep) -> Page:
    """Every planner's plan at every bandwidth. Raises InputError where no testbed can be made."""
    results = {}
    with Machines((SOURCE, *OTHERS)) as machines, tempfile.TemporaryDirectory() as cache:
        for mbps in MBPS:
            machines.set_rate(mbps)
            results[mbps] = _run(machines, cache)
            on_step(f"{mbps} Mbps")
    slowdowns = ", ".join(f"{x.slowdown:g} ({x.name})" for x in (SOURCE, *OTHERS))
    sections = (_table(results, 1, "Time per token"), _table(results, 0, "Time to first token"))
    text = TEXT.format(slowdowns=slowdowns)
    return Page("edgeshard-testbed", "EdgeShard's question, asked of processes", text, sections)


def _run(machines: Machines, cache: str) -> list[dict[str, Any]]:
    setting = Setting(
        MODEL,
        SCHEME,
        SOURCE.name,
        parse_bytes(SOURCE.memory),
        SOURCE.slowdown,
        machines.address(SOURCE),
        len(OTHERS),
    )
    source = [
        sys.executable,
        "-c",
        "from edgewise.studies.testbed.runs import run_from_input; run_from_input()",
    ]
    with contextlib.ExitStack() as stack:
        process = stack.enter_context(_process(machines.command(SOURCE, *source), cache))
        assert process.stdin is not None and process.stdout is not None
        process.stdin.write(json.dumps(asdict(setting)) + "\n")
        process.stdin.flush()
        said = json.loads(process.stdout.readline())
        for machine in OTHERS:
            join = [sys.executable, "-m", "edgewise", "join"]
            join += [f"{machines.address(SOURCE)}:{said['port']}", "--token", said["token"]]
            join += ["--name", machine.name, "--memory", machine.memory, "--threads", "1"]
            join += ["--slowdown", str(machine.slowdown)]
            stack.enter_context(_process(machines.command(machine, *join), cache))
        output, _ = process.communicate(timeout=SECONDS)
        results: list[dict[str, Any]] = json.loads(output)
        return results


@contextlib.contextmanager
def _process(command: list[str], cache: str) -> "Iterator[subprocess.Popen[str]]":
    """One that does not outlive the block, with a cache of its own."""
    process = subprocess.Popen(
        command,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "XDG_CACHE_HOME": cache},
    )
    try:
        yield process
    finally:
        if process.poll() is None:
            process.terminate()
        try:
            process.wait(10)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def _table(results: dict[int, list[dict[str, Any]]], part: int, title: str) -> Section:
    rows = list[tuple[Value, ...]]()
    for mbps, plans in results.items():
        for one in plans:
            predicted, measured = one["predicted"][part], one["measured"][part]
            plan = ", ".join(f"{device} {layers}" for device, layers in one["plan"])
            off = predicted / measured - 1
            rows.append((float(mbps), one["planner"], plan, predicted, measured, off))
    columns = ("Mbps", "planner", "layers", "predicted ms", "measured ms", "off by")
    figure = _figure(results) if part else None
    return Section(
        f"{title}, milliseconds", "Medians; plans took turns.", columns, tuple(rows), figure
    )


def _figure(results: dict[int, list[dict[str, Any]]]) -> Figure:
    lines: dict[str, tuple[list[float], list[float]]] = {}
    for name in METHODS:
        points = [
            (float(mbps), float(one["measured"][1]))
            for mbps, plans in results.items()
            for one in plans
            if one["planner"] == name
        ]
        lines[name] = [x for x, _ in points], [y for _, y in points]
    draw = partial(
        save_lines,
        lines,
        title="SmolLM2-135M on three devices, measured",
        x="Mbps of every device",
        y="milliseconds per token",
        log_x=True,
    )
    return Figure("edgeshard-testbed", draw)
