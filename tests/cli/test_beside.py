"""`edgewise plan --compare --beside`: zeros, layers on disk and fewer blocks in one table."""

import json

import pytest
import torch

from edgewise.models.cache import Segment
from edgewise.models.shard import load_shard
from edgewise.quality.calibration import sequences
from edgewise.quality.verification import text_of, verify_checkpoint

SCHEMES = "q4g32ad,q4g32ds"
TOML = """
source = "a"
[[device]]
name = "a"
memory = "1.2 MB"
disk = "800 MB/s"
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("smaller")


@pytest.fixture
def smaller(command, folder):
    """The demo model with two blocks fewer, and with zeros in packed blocks."""
    shorter, packed = folder / "shorter", folder / "packed"
    few = ("--sequences", 2, "--length", 32, "--json")
    told = (
        (shorter, "--drop-layers", 2, "--steps", 0, "--word-steps", 0),
        (packed, "--bits", 4, "--pattern", "2:4"),
    )
    for out, *how in told:
        if not out.exists():
            result = command("compress", "demo", *how, *few, "--out", out)
            assert result.code == 0, result.err
    return str(shorter), str(packed)


@pytest.fixture
def asked(tmp_path, smaller):
    (tmp_path / "cluster.toml").write_text(TOML)
    beside = [x for name in smaller for x in ("--beside", name)]
    work = ("--prompt-tokens", 8, "--new-tokens", 8, "--schemes", SCHEMES)
    return ("plan", "demo", "--cluster", tmp_path / "cluster.toml", *work, "--compare", *beside)


def log_probabilities(model, ids):
    shard = load_shard(model, schemes="fp32", context=len(ids))
    return shard.forward(ids, [Segment(0, 0, len(ids))]).double().log_softmax(-1)


def divergence(other):
    """KL(demo || other) a token, by whole models."""
    rows = []
    for ids in sequences("demo", text_of("demo", 0)):
        ours, theirs = (log_probabilities(x, ids) for x in ("demo", other))
        rows.append((ours.exp() * (ours - theirs)).sum(-1).mean())
    return float(torch.stack(rows).mean())


def test_one_table_has_them_all(command, asked, smaller):
    result = command(*asked, "--quality", "any", "--json")
    assert result.code == 0, result.err
    said = json.loads(result.out)
    shorter, packed = said["beside"]
    assert (shorter["model"], packed["model"]) == smaller
    for row in said["beside"]:
        assert row["own_loss"] == pytest.approx(divergence(row["model"]), rel=0.02)
    (stage,) = shorter["stages"]
    assert stage["end"] == said["plan"]["num_layers"] - 2
    assert any(x["streamed"] for x in said["plan"]["stages"])
    assert "q4g32ds" in {x for y in said["plan"]["stages"] for x in y["schemes"]}
    assert packed["feasible"]


def test_what_people_read(command, asked, smaller, monkeypatch):
    monkeypatch.setenv("COLUMNS", "200")
    result = command(*asked, "--quality", "any")
    assert result.code == 0, result.err
    for part in (*(f"joint of {name}" for name in smaller), "from disk", "q4g32ds x", "or more"):
        assert part in result.out, result.out


def test_what_loses_too_much_by_itself_is_no_plan(command, asked, smaller):
    lost = verify_checkpoint("demo", smaller[0]).mean
    told = (*asked[:-4], "--beside", smaller[0], "--json")
    result = command(*told, "--quality", 0.9 * lost)
    assert result.code == 0, result.err
    (row,) = json.loads(result.out)["beside"]
    assert not row["feasible"] and "by itself, the budget is" in row["reason"]


def test_only_in_a_comparison(command, asked):
    result = command(*(x for x in asked if x != "--compare"))
    assert result.code == 2 and "--compare" in result.err
