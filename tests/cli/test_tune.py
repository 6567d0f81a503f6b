"""`edgewise tune`: on one device and on several, stopped and gone on with, and what it refuses."""

import contextlib
import json
import re
import time

import pytest

from edgewise.cli import tune
from edgewise.demo.questions import draw_questions, prompt
from tests.hosting.clusters import PATIENCE, commands

JOIN = ("--join", "1", "--listen", "127.0.0.1:0")
FEW = ("--window", "2", "--batch", "3", "--steps", "6", "--scheme", "fp32")


@pytest.fixture
def data(tmp_path):
    records = [
        {"prompt": prompt(x.context, x.question), "answer": x.answer}
        for x in draw_questions(1, 30, "train")
    ]
    (tmp_path / "data.jsonl").write_text("\n".join(map(json.dumps, records)))
    return tmp_path / "data.jsonl"


@pytest.fixture
def tuned(command, data, tmp_path):
    """The document that a run prints."""

    def tune(name, *options):
        told = ("tune", "demo", "--data", data, "--out", tmp_path / name, *FEW, "--json")
        result = command(*told, *options)
        assert result.code == 0, result.err
        return json.loads(result.out)

    return tune


@pytest.fixture
def two(tmp_path):
    (tmp_path / "two.toml").write_text(
        'source = "a"\n'
        '[[device]]\nname = "a"\nmemory = "60 MB"\n'
        '[[device]]\nname = "b"\nmemory = "60 MB"\n'
        '[[link]]\nbetween = ["a", "b"]\nbandwidth = "1 Gbps"\n'
    )
    return tmp_path / "two.toml"


def test_on_two_devices_it_learns_what_it_learns_on_one(tuned, two):
    one, cut = tuned("one"), tuned("cut", "--cluster", two)
    assert sum(x["end"] - x["first"] for x in cut["places"]) == len(cut["before"])
    assert [x["loss"] for x in cut["steps"]] == pytest.approx(
        [x["loss"] for x in one["steps"]], abs=1e-5
    )
    for name, verdict in cut["after"].items():
        assert verdict == pytest.approx(one["after"][name], abs=1e-5)


def test_privately_with_blocks_on_another_device_it_learns_what_it_learns_on_one(tuned, two):
    told = "--method", "private"
    one, away = tuned("one", *told), tuned("away", *told, "--cluster", two)
    assert away["blocks"].keys() == {"b"} and away["places"][0]["device"] == "a"
    assert [x["loss"] for x in away["steps"]] == pytest.approx(
        [x["loss"] for x in one["steps"]], abs=0.02
    )
    assert all(x["crossed_bytes"] > 0 for x in away["steps"])
    (exit,) = away["after"]
    assert away["after"][exit]["loss"] == pytest.approx(one["after"][exit]["loss"], abs=0.02)


@pytest.mark.parametrize("method", ["window", "private"])
def test_on_a_machine_that_joined_it_learns_what_it_learns_on_one(tuned, data, tmp_path, method):
    """By the line that it prints, with a folder of its own."""
    told = "--method", method
    one, out = tuned("one", *told), tmp_path / "away"
    with commands(tmp_path) as started:
        run = started.start(
            "tune", "demo", "--data", str(data), "--out", str(out), *FEW, *told, *JOIN
        )
        there = started.join(run, "--name", "there", XDG_CACHE_HOME=str(tmp_path / "there"))
        away = run.wait_for("after", seconds=PATIENCE)
        assert run.process.wait(30) == 0
        assert there.process.poll() is None  # it is let go, and waits for the next run
    assert [x["loss"] for x in away["steps"]] == pytest.approx(
        [x["loss"] for x in one["steps"]], abs=1e-5
    )
    assert (out / "adapter_model.safetensors").is_file()
    if method == "private":
        assert away["blocks"] == {"there": [0, 12]}
    else:
        assert sum(x["end"] - x["first"] for x in away["places"]) == 6


@pytest.mark.parametrize("devices", [1, 2])
def test_progress_says_what_all_devices_do(tuned, two, monkeypatch, devices):
    """Not how quickly steps are taken that were done already, nor memory that only coordinates."""
    said = []

    @contextlib.contextmanager
    def progress(what, total, as_json):
        began = time.monotonic()
        yield lambda text: said.append((time.monotonic() - began, text))

    monkeypatch.setattr(tune, "progress", progress)
    where = () if devices == 1 else ("--cluster", two)
    steps = tuned("out", *where, "--steps", "24")["steps"]
    tokens = 0
    for (seconds, text), step in zip(said, steps, strict=True):
        tokens += step["tokens"]
        rate = float(re.search(r"(\d+) tokens/s", text)[1])
        assert rate < 5 * tokens / seconds + 1
    assert all(("MB" in text or "GB" in text) == (devices == 1) for _, text in said)


def test_who_does_not_join_is_waited_for_as_long_as_was_said(command, data, tmp_path):
    options = "--data", data, "--out", tmp_path / "out", *FEW, *JOIN, "--wait", "1"
    result = command("tune", "demo", *options)
    assert result.code == 2
    assert "0 of 1 machines joined within 1 s: run the line that was printed" in result.err
    assert "edgewise join 127.0.0.1:" in result.out


def test_a_run_that_ended_has_nothing_left_to_do(tuned):
    first, again = tuned("one"), tuned("one")
    assert len(first["steps"]) == 6 and again["steps"] == []
    assert again["after"] == first["after"]


def test_it_keeps_no_more_than_it_may_and_learns_the_same(tuned):
    free, bound = tuned("free"), tuned("bound", "--keep", "2 MB")
    assert [x["loss"] for x in bound["steps"]] == [x["loss"] for x in free["steps"]]


def test_a_model_that_cannot_be_tuned_is_refused_before_anything_is_read(
    command, checkpoint, tmp_path
):
    told = "--data", tmp_path / "none.jsonl", "--out", tmp_path / "out"
    result = command("tune", checkpoint("opt-350m"), *told)
    assert result.code == 2
    assert "this model's head is not a norm and a matrix" in result.err


def test_what_is_no_model_any_more_after_the_last_step_is_not_written(command, data, tmp_path):
    """Each of six windows learns once, from a loss that is a number."""
    out = tmp_path / "out"
    result = command("tune", "demo", "--data", data, "--out", out, *FEW, "--rate", "1e37")
    assert result.code == 1
    assert "the rate, 1e+37, is too high" in result.err and "another --out" in result.err
    assert [path.name for path in out.iterdir()] == ["checkpoint.safetensors"]


@pytest.mark.parametrize(
    "options, says",
    [
        (("--keep", "1 kB"), "even where all blocks run again"),
        (("--keep", "some"), "--keep: 'some' is not a size"),
        (("--keep", "1 MB", "--cluster", "two.toml"), "--keep is for one device"),
        (("--keep", "1 MB", "--join", "1"), "leave --join out"),
        (("--cluster", "two.toml", "--join", "1"), "give one"),
        (("--longest", "513"), "records of 513 tokens are longer than the model takes, 512"),
        (("--wait", "5"), "--wait is for machines that join"),
        (("--join", "1", "--listen", "here"), "--listen: 'here' is not HOST:PORT"),
    ],
)
def test_what_cannot_be_is_refused(command, data, two, tmp_path, options, says):
    options = [str(two) if x == "two.toml" else x for x in options]
    result = command("tune", "demo", "--data", data, "--out", tmp_path / "out", *FEW, *options)
    assert result.code == 2
    assert says in result.err


def test_what_can_be_refused_is_refused_before_anybody_is_waited_for(
    command, tuned, data, tmp_path
):
    tuned("one")
    (tmp_path / "file").write_text("no folder")
    told = "tune", "demo", "--data", data, *FEW, *JOIN, "--wait", "60", "--out"
    for out, says in (
        ("one", "another model, data or options: give another --out"),
        ("file", "cannot make"),
    ):
        result = command(*told, tmp_path / out, "--seed", "5")
        assert result.code == 2 and says in result.err
        assert "edgewise join" not in result.out
    nothing = tmp_path / "none.jsonl"
    result = command("tune", "demo", "--data", nothing, "--out", tmp_path, "--keep", "some")
    assert "--keep: 'some' is not a size" in result.err


def test_windows_that_fit_nowhere_are_said_with_the_numbers(command, data, two, tmp_path):
    two.write_text(two.read_text().replace("60 MB", "1 MB"))
    out = tmp_path / "out"
    result = command("tune", "demo", "--data", data, "--out", out, *FEW, "--cluster", two)
    assert result.code != 0
    assert "windows fit on no devices: " in result.err
    assert "MB for one, of 1 MB)" in result.err
