"""Two network namespaces as two machines: clocks an hour apart, no files in common, the model on
one of them only."""

import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

import edgewise.demo
from edgewise.demo.questions import draw_questions, prompt
from edgewise.studies.testbed.machines import Machine, Machines
from tests.hosting.clusters import PATIENCE, ask, commands

QUESTION = draw_questions(3, 1)[0]
TEXT = prompt(QUESTION.context, QUESTION.question)
BOTH = (Machine("up-a", 1.0, ""), Machine("up-b", 1.0, ""))
PAGE = Path(__file__).parents[2] / "docs" / "three-machines.md"
SUBNET = "10.77.0"
FIRST = f"{SUBNET}.1"
FOREIGN = """
mount -t tmpfs none {model} && mount -t tmpfs none {cache} && exec "$@"
"""


@pytest.fixture(scope="module")
def machines(namespaces):
    with Machines(BOTH, SUBNET) as made:
        yield [made.command(machine) for machine in BOTH]


def elsewhere(prefix, folder):
    """A machine that has another clock, and neither our model nor our files."""
    model = os.path.dirname(edgewise.demo.__file__) + "/model"
    script = FOREIGN.format(model=model, cache=folder / "cache")
    clock = ("unshare", "--time", "--monotonic", "3600", "--mount", "--fork", "--kill-child")
    return (*prefix, *clock, "sh", "-c", script, "sh")


def test_one_line_makes_another_machine_answer(machines, tmp_path):
    here, there = machines
    (tmp_path / "cache").mkdir()
    with commands(tmp_path) as started:
        # Without the other machine the model does not fit.
        small = ("--memory", "9 MB", "--scheme", "fp32", "--prompt-tokens", "64")
        address = f"{FIRST}:0"
        up = started.start(
            "up", "demo", "--listen", address, "--http", "127.0.0.1:0", *small,
            "--new-tokens", "64", "--name", "here", prefix=here,
        )  # fmt: skip
        up.wait_for("text", "waiting for devices")
        began = time.monotonic()
        started.join(
            up, "--name", "there", prefix=elsewhere(there, tmp_path),
            XDG_CACHE_HOME=str(tmp_path / "cache"),
        )  # fmt: skip
        assert ask(up, TEXT, prefix=here, patience=PATIENCE).strip() == QUESTION.answer
        assert time.monotonic() - began < 60  # alone on a machine: 6


def test_the_page_for_newcomers(machines, tmp_path, real_model):
    """docs/three-machines.md, command by command."""
    here, there = machines
    first, second, *third = re.findall(r"^\$ (.*)$", PAGE.read_text(), re.MULTILINE)
    assert (first, len(third)) == ("edgewise up smollm2", 2)
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    environment = {**os.environ, "PATH": path, "XDG_CACHE_HOME": str(tmp_path / "mine")}
    (tmp_path / "cache").mkdir()

    def run(command, prefix, log, **changed):
        with log.open("wb") as file:
            return subprocess.Popen(
                [*prefix, "sh", "-c", f"exec {command}"], stdout=file, stderr=file,
                env=environment | changed,
            )  # fmt: skip

    def wait_for(pattern, log):
        for _ in range(600):
            if match := re.search(pattern, log.read_text()):
                return match
            time.sleep(0.1)
        raise AssertionError(log.read_text())

    logs = [tmp_path / name for name in ("up", "join")]
    started = [run(first, here, logs[0])]
    try:
        line = wait_for(r"(?m)^  (edgewise join .*)$", logs[0])[1]
        assert line.split()[:2] == second.split()[:2] and FIRST in line
        away = elsewhere(there, tmp_path)
        line += " --name there"  # both have this machine's name
        started.append(run(line, away, logs[1], XDG_CACHE_HOME=str(tmp_path / "cache")))
        wait_for("'there' joined", logs[0])
        said = [
            subprocess.run(
                [*here, "sh", "-c", command],
                capture_output=True,
                text=True,
                env=environment,
                timeout=120,
                check=True,
            ).stdout
            for command in third
        ]
        assert "Paris" in said[0] and "smollm2: " in said[1] and "there" in said[1]
    finally:
        started[0].send_signal(signal.SIGINT)
        for process in started[1:]:
            process.kill()  # unshare, which ends what it runs; it does not pass an interrupt on
        codes = [process.wait(30) for process in started]
        assert codes[0] == 0
