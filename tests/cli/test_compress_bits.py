"""`edgewise compress`: what it writes answers, and what it refuses."""

import json

import pytest

from edgewise.models.checkpoint import open_checkpoint

SMALL = ("--sequences", "4", "--length", "32", "--json")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("compress") / "smaller"


def test_luc_writes_a_model_that_answers(command, folder, question):
    made = command("compress", "demo", "--luc", "--bits", 4, "--sparsity", 0.3, "--out", folder,
                   *SMALL)  # fmt: skip
    assert made.code == 0, made.err
    document = json.loads(made.out)
    blocks = open_checkpoint("demo").config.num_blocks
    assert len(document["bits"]) == blocks and set(document["bits"]) == {4, 5}
    assert document["average_sparsity"] == pytest.approx(0.3)
    errors = document["errors_by_bits"]["4"]
    mean = sum(errors) / blocks
    assert document["bits"] == [4 + (error >= mean) for error in errors]
    pruning = list(map(sum, zip(*document["errors_by_sparsity"].values(), strict=True)))
    assert document["sparsities"][pruning.index(max(pruning))] == 0.0
    assert document["sparsities"][pruning.index(min(pruning))] == max(document["sparsities"])
    spec = open_checkpoint(folder).spec
    assert document["weight_bytes"] == spec.weight_bytes(["stored"] * spec.num_layers)
    answer = json.loads(command("run", folder, question, "--json").out)
    theirs = json.loads(command("run", "demo", question, "--json").out)
    assert answer["answer"] == theirs["answer"]
    refused = command("compress", folder, "--drop-layers", 1, "--out", folder.parent / "y")
    assert refused.code == 2 and "its matrices are packed; drop blocks" in refused.err


def test_all_blocks_alike(command, tmp_path, question):
    made = command("compress", "demo", "--bits", 3, "--pattern", "2:4", "--out", tmp_path / "x",
                   *SMALL)  # fmt: skip
    document = json.loads(made.out)
    assert set(document["bits"]) == {3} and set(document["sparsities"]) == {0.5}
    assert document["errors_by_bits"] is None
    smaller = open_checkpoint(tmp_path / "x")
    zeros = smaller.read("model.layers.3.mlp.down_proj.weight").view(-1, 4) == 0
    assert int(zeros.sum(-1).min()) >= 2
    assert smaller.spec.layers[1].stored[0][0][1] == "q3g32ds"
    spec = smaller.spec
    assert document["weight_bytes"] == spec.weight_bytes(["stored"] * spec.num_layers)
    answer = json.loads(command("run", tmp_path / "x", question, "--json").out)
    assert answer["answer"]


@pytest.mark.parametrize("how", [(), ("--luc",)], ids=str)
def test_no_zeros(command, tmp_path, how):
    made = command("compress", "demo", *how, "--bits", 4, "--sparsity", 0, "--out", tmp_path / "x",
                   *SMALL)  # fmt: skip
    document = json.loads(made.out)
    assert set(document["sparsities"]) == {0.0} and document["errors_by_sparsity"] in (None, {})


def test_a_full_disk(command, tmp_path, files_end_at):
    with files_end_at(50_000):
        refused = command("compress", "demo", "--bits", 4, "--out", tmp_path / "x", *SMALL[:-1])
    assert refused.code == 1
    assert f"{tmp_path / 'x'}: cannot be written, and is not there: " in refused.err
    assert "File too large" in refused.err
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ((), "say how to make it smaller"),
        (("--sparsity", "0.5"), "or --bits 4"),
        (("--bits", "4", "--drop-layers", "1"), "drop first"),
        (("--luc", "--drop-layers", "1"), "drop first"),
        (("--sparsity", "0.5", "--drop-layers", "1"), "drop first"),
        (("--bits", "4", "--sparsity", "-0.1"), "sparsity -0.1: give the share"),
        (("--bits", "4", "--sparsity", "1"), "sparsity 1: give the share"),
        (("--bits", "4", "--sparsity", "1.5"), "sparsity 1.5: give the share"),
        (("--bits", "4", "--sparsity", "nan"), "sparsity nan: give the share"),
        (("--bits", "7"), "no scheme has codes of 7 bits; there are: 2, 3, 4, 5, 6, 8"),
        (("--bits", "6", "--luc"), "no scheme has codes of 7 bits"),
        (("--bits", "4", "--pattern", "1:3"), "known patterns: 2:4"),
        (("--bits", "4", "--pattern", "2:4", "--sparsity", "0.3"), "makes 0.5 of all weights"),
        (("--bits", "4", "--text", "nowhere.txt"), "nowhere.txt: no such"),
        (("--bits", "4", "--length", "100000"), "exceed the context"),
    ],
)
def test_what_cannot_be(command, tmp_path, options, message):
    result = command("compress", "demo", "--out", tmp_path / "x", *options)
    assert result.code == 2 and result.out == ""
    assert message in result.err
    assert not (tmp_path / "x").exists()


def test_a_folder_that_is_there(command, tmp_path):
    (tmp_path / "mine").touch()
    result = command("compress", "demo", "--bits", 4, "--out", tmp_path)
    assert result.code == 2 and "is there already" in result.err


def test_no_model(command, tmp_path):
    result = command("compress", "nothing/here", "--bits", 4, "--out", tmp_path / "x")
    assert result.code == 2 and "nothing/here" in result.err
