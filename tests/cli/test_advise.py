"""`edgewise advise`: what it prints, and what it refuses."""

import json

import pytest

from edgewise.cluster_files import load_cluster
from edgewise.models.checkpoint import open_checkpoint
from edgewise.opening.profile import profile_path, wide_grid
from edgewise.schemes import STORED
from edgewise.simulation.rooflines import Roofline, make_profile


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


@pytest.fixture
def roomy_cluster(slow_cluster):
    """With memory to learn in."""
    slow_cluster.write_text(slow_cluster.read_text().replace("10 MB", "1 GB"))
    return slow_cluster


@pytest.fixture
def measured(roomy_cluster):
    """As if `edgewise profile demo --cluster slow.toml` had been run."""
    spec = open_checkpoint("demo").spec
    figures = [Roofline(name, 1e11, 1e9) for name in ("laptop", "jetson", "pi")]
    path = profile_path(spec, load_cluster(roomy_cluster), (STORED,), wide_grid(spec))
    path.parent.mkdir(parents=True)
    path.write_text(make_profile(spec, figures, (STORED,)).to_json())


def test_what_was_not_measured_is_not_said(command):
    result = command("advise", "demo", "--task", "easy", "--samples", 500)
    assert (result.code, result.err) == (0, "")
    assert "how long: not measured: run `edgewise profile demo`" in result.out
    assert "demo in stored; an adapter: LoRA, rank 8, at most 4 h" in result.out
    assert "next: edgewise tune demo --scheme stored --rank 8 --data FILE" in result.out
    assert "predicted" not in result.out
    assert "Rules that spoke" in result.out


def test_the_cluster_and_the_scheme_are_in_the_command_that_measures(command, roomy_cluster):
    asked = ("advise", "demo", "--cluster", roomy_cluster, "--task", "easy", "--samples", 100)
    result = command(*asked)
    assert f"run `edgewise profile demo --cluster {roomy_cluster} --schemes 4bit`" in result.out


def test_a_measured_cluster_says_how_long(command, roomy_cluster, measured):
    asked = ("advise", "demo", "--cluster", roomy_cluster, "--task", "easy", "--samples", 1000)
    told = command(*asked)
    assert "fits: by a plan on what was measured" in told.out
    assert "learning from every record once: about" in told.out
    document = json.loads(command(*asked, "--json").out)
    assert document["measured"] and document["to_measure"] is None
    stored = next(x for x in document["variants"] if x["scheme"] == STORED)
    assert document["learning_seconds"] == pytest.approx(3000 * stored["record_seconds"])
    assert {rule["name"] for rule in document["rules"]} >= {"fits", "easy", "kind", "rank"}
    hours = document["learning_seconds"] / 3600 / 2
    short = json.loads(command(*asked, "--json", "--hours", hours).out)
    assert short["way"] == "retrieval"
    assert "time to learn" in {rule["name"] for rule in short["rules"]}


@pytest.mark.parametrize(
    ("options", "code", "message"),
    [
        (
            ("--samples", 0, "--hours", 2),
            2,
            "--samples 0 leaves nothing to learn from in --hours 2",
        ),
        (("--hours", -1), 2, "--hours must be zero or more, not -1"),
        (("--task", "tedious"), 2, "'tedious' is not one of 'easy', 'moderate', 'hard'"),
    ],
)
def test_wishes_that_mean_nothing_are_refused(command, options, code, message):
    result = command("advise", "demo", *options)
    assert (result.code, result.out) == (code, "")
    assert message in result.err


def test_too_large_a_model_is_refused_with_what_it_needs(command, slow_cluster):
    slow_cluster.write_text(slow_cluster.read_text().replace("10 MB", "100 kB"))
    result = command("advise", "demo", "--cluster", slow_cluster)
    assert result.code == 3
    assert "no model fits on these devices: the least is demo in 2bit" in result.err
