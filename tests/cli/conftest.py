"""Run the command line, in this process or as one of its own."""

import subprocess
import sys
from itertools import pairwise
from types import SimpleNamespace

import pytest

from edgewise.cli import main
from edgewise.demo.questions import draw_questions, prompt
from edgewise.models.checkpoint import open_checkpoint
from edgewise.plans import Plan, Stage
from edgewise.simulation.rooflines import Roofline, make_profile

SLOW = """
source = "laptop"
[[device]]
name = "laptop"
memory = "10 MB"
[[device]]
name = "jetson"
memory = "10 MB"
[[device]]
name = "pi"
memory = "10 MB"
[[link]]
between = ["laptop", "jetson"]
latency = "40 ms"
[[link]]
between = ["laptop", "pi"]
latency = "40 ms"
[[link]]
between = ["jetson", "pi"]
latency = "40 ms"
"""


@pytest.fixture
def command(monkeypatch, capsys):
    """Call `edgewise ...` in this process; returns its exit code and output."""

    def call(*arguments):
        monkeypatch.setattr(sys, "argv", ["edgewise", *map(str, arguments)])
        with pytest.raises(SystemExit) as end:
            main()
        captured = capsys.readouterr()
        return SimpleNamespace(code=end.value.code or 0, out=captured.out, err=captured.err)

    return call


@pytest.fixture
def start():
    """Start `edgewise ...` as a process."""

    def call(*arguments):
        return subprocess.Popen(
            [sys.executable, "-m", "edgewise", *map(str, arguments)],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    return call


@pytest.fixture
def asked():
    return draw_questions(3, 1)[0]


@pytest.fixture
def question(asked):
    return prompt(asked.context, asked.question)


@pytest.fixture
def plan_file(tmp_path):
    """A plan over all three devices of the slow cluster."""
    spec = open_checkpoint("demo").spec
    ends = (0, 5, 10, spec.num_layers)
    stages = tuple(
        Stage(name, start, end, ("fp32",) * (end - start))
        for name, (start, end) in zip(("laptop", "jetson", "pi"), pairwise(ends), strict=True)
    )
    path = tmp_path / "three.json"
    path.write_text(Plan("demo", spec.digest, spec.num_layers, stages).to_json())
    return path


@pytest.fixture
def slow_cluster(tmp_path):
    path = tmp_path / "slow.toml"
    path.write_text(SLOW)
    return path


@pytest.fixture
def profiled(tmp_path):
    """A file with a profile of the demo model that nobody had to measure."""

    def call(schemes, kinds=("laptop", "jetson", "pi")):
        path = tmp_path / "profile.json"
        figures = [Roofline(name, 1e11, 1e9) for name in kinds]
        path.write_text(make_profile(open_checkpoint("demo").spec, figures, schemes).to_json())
        return path

    return call
