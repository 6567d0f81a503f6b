"""`edgewise compress`: what it writes answers, here and in transformers; what it refuses."""

import json

import pytest
import torch
import transformers

from edgewise.cli import shortening
from edgewise.demo.questions import draw_questions, prompt
from edgewise.models.cache import Segment
from edgewise.models.checkpoint import open_checkpoint
from edgewise.models.shard import load_shard
from edgewise.models.tokenizer import load_tokenizer
from edgewise.quality.calibration import Calibration, sequences
from edgewise.quantization.packed import Packed
from edgewise.shortening.judging import token_nats
from edgewise.shortening.shorten import TextSplit
from tests.models.mlps import PLACE, write_with_mlp
from tests.seeds import THOROUGH

SHORT = ("--length", "32", "--batch", "2")


@pytest.fixture
def text(tmp_path):
    lines = (f"{prompt(x.context, x.question)} {x.answer}" for x in draw_questions(1, 40, "train"))
    (tmp_path / "text.txt").write_text("\n".join(lines))
    return tmp_path / "text.txt"


def logits(model, tokens):
    shard = load_shard(model, schemes="fp32", context=len(tokens))
    return shard.forward(tokens, [Segment(0, 0, len(tokens))])


@pytest.mark.parametrize("steps", [0, 6])
def test_a_shorter_demo(command, text, tmp_path, steps):
    out = tmp_path / "new"
    told = ("compress", "demo", "--drop-layers", "2", "--text", text, "--out", out, *SHORT)
    result = command(*told, "--steps", steps, "--word-steps", steps // 3, "--json")
    assert result.code == 0, result.err
    said = json.loads(result.out)
    assert len(said["steps"]) == steps + steps // 3
    assert said["span"]["end"] - said["span"]["first"] == 2 + (steps > 0)
    assert said["replacement"] == ("block" if steps else None)
    assert max(said["similarities"]) == said["similarities"][said["span"]["first"]]
    blocks = open_checkpoint("demo").config.num_blocks
    assert open_checkpoint(out).config.num_blocks == said["blocks"] == blocks - 2
    ids = torch.tensor(load_tokenizer(out).encode(text.read_text())[:60])
    assert ids.tolist() == load_tokenizer("demo").encode(text.read_text())[:60]
    model = transformers.AutoModelForCausalLM.from_pretrained(out, dtype=torch.float32)
    with torch.inference_mode():
        truth = model.eval()(ids[None]).logits[0]
    assert (logits(out, ids) - truth).abs().max() < 1e-3
    assert command("run", out, "Where is the library?", "--max-tokens", "3").code == 0


def test_an_mlp_in_the_place_of_blocks(command, text, tmp_path):
    out = tmp_path / "new"
    told = ("compress", "demo", "--drop-layers", "2", "--text", text, "--out", out, *SHORT)
    result = command(*told, "--replace", "mlp", "--steps", "6", "--word-steps", "2")
    assert result.code == 0, result.err
    assert "an MLP that learned what blocks" in result.out
    opened, source = open_checkpoint(out), open_checkpoint("demo")
    assert opened.config.num_blocks == source.config.num_blocks - 2
    (place,) = opened.config.mlp_blocks
    wide, hidden = 4 * source.config.hidden_size, source.config.hidden_size
    assert opened.spec.layers[place + 1].matrices == ((wide, hidden), (hidden, wide))
    with pytest.raises(ValueError, match="edgewise"):
        transformers.AutoModelForCausalLM.from_pretrained(out)
    for scheme in ("stored", "4bit"):
        told = ("run", out, "Where is the library?", "--max-tokens", "3", "--scheme", scheme)
        assert command(*told).code == 0


def test_what_is_in_few_bits_of_a_model_with_an_mlp(command, text, tmp_path):
    """Dropped first, then compressed: SparseGPT and GPTQ take an MLP's matrices as others'."""
    write_with_mlp(tmp_path / "mlp", "demo")
    told = ("compress", tmp_path / "mlp", "--bits", "4", "--text", text, "--sparsity", "0.5")
    result = command(*told, "--sequences", "4", "--out", tmp_path / "few")
    assert result.code == 0, result.err
    few = open_checkpoint(tmp_path / "few")
    assert few.config.mlp_blocks == (PLACE,)
    matrix = few.stored(f"model.layers.{PLACE}.fc1.weight")
    assert isinstance(matrix, Packed)
    zeros = float((matrix.dequantized() == 0).float().mean())
    assert 0.5 <= zeros < 0.7  # rounding makes some, too
    assert command("run", tmp_path / "few", "Where is the library?", "--max-tokens", "3").code == 0


def test_adapters_are_not_for_an_mlp(command, tmp_path):
    model = write_with_mlp(tmp_path / "mlp", "demo")
    record = {"prompt": "Where is the library?", "answer": "Here."}
    (tmp_path / "data.jsonl").write_text("\n".join([json.dumps(record)] * 20))
    told = ("tune", model, "--data", tmp_path / "data.jsonl", "--out", tmp_path / "adapter")
    result = command(*told, "--steps", "1")
    assert result.code == 2
    assert f"an MLP is in the place of block {PLACE}" in result.err


def test_without_a_text_it_learns_from_what_it_writes_itself(command, tmp_path, monkeypatch):
    monkeypatch.setattr(shortening, "WRITTEN", 20)
    told = (
        "compress",
        "demo",
        "--drop-layers",
        "1",
        *SHORT,
        "--steps",
        "3",
        "--word-steps",
        "1",
        "--json",
    )
    result = command(*told, "--out", tmp_path / "new")
    assert result.code == 0, result.err
    said = json.loads(result.out)
    written = sequences("demo", Calibration(None, 20, 32, 1))
    held_out = TextSplit.of(written, "").held_out
    source = open_checkpoint("demo")
    assert said["loss_before"] == pytest.approx(float(token_nats(source, held_out).mean()))
    nats = token_nats(open_checkpoint(tmp_path / "new"), held_out)
    assert said["loss"] == pytest.approx(float(nats.mean()), abs=0.01)


def test_nothing_that_is_asked_for(command, tmp_path):
    result = command("compress", "demo", "--out", tmp_path / "new")
    assert result.code == 2 and "say how to make it smaller" in result.err


def test_what_people_read(command, text, tmp_path):
    out = tmp_path / "new"
    told = ("compress", "demo", "--drop-layers", "1", "--text", text, "--out", out, *SHORT)
    result = command(*told, "--steps", "2", "--word-steps", "0")
    assert result.code == 0
    assert "one that learned what blocks" in result.out and "perplexity" in result.out


@pytest.mark.parametrize(
    "options, says",
    [
        (("--drop-layers", "0"), "0 blocks cannot be dropped"),
        (("--drop-layers", "-3"), "-3 blocks cannot be dropped"),
        (("--drop-layers", "{blocks}"), "of which one must stay, so give 1 to"),
        (("--drop-layers", "1", "--learning-rate", "0"), "the learning rate is 0.0"),
        (("--drop-layers", "1", "--out", "{text}"), "is there already"),
        (("--drop-layers", "1", "--length", "4000"), "pieces of text"),
        (("--drop-layers", "1", "--text", "nowhere.txt"), "nowhere.txt"),
        (("--replace", "mlp", "--bits", "4"), "add --drop-layers"),
        (("--replace", "block"), "add --drop-layers"),
        (
            ("--drop-layers", "1", "--replace", "mlp", "--steps", "0", "--word-steps", "0"),
            "--replace with no steps",
        ),
    ],
)
def test_what_cannot_be_is_refused(command, text, tmp_path, options, says):
    blocks = open_checkpoint("demo").config.num_blocks
    options = [x.format(blocks=blocks, text=text) for x in options]
    result = command("compress", "demo", "--text", text, "--out", tmp_path / "new", *options)
    assert result.code == 2
    assert says in result.err
    assert not (tmp_path / "new").exists()


def test_unlike_blocks_are_refused(command, checkpoint, text, tmp_path):
    told = ("compress", checkpoint("qwen2-window"), "--drop-layers", "1", "--text", text)
    result = command(*told, "--out", tmp_path / "new")
    assert result.code == 2
    assert "not alike" in result.err


def test_a_rate_that_is_too_high_writes_nothing(command, text, tmp_path):
    told = ("compress", "demo", "--drop-layers", "1", "--text", text, *SHORT)
    result = command(*told, "--out", tmp_path / "new", "--learning-rate", "1e30", "--steps", "9")
    assert result.code == 1
    assert "is too high; nothing was written" in result.err
    assert not (tmp_path / "new").exists()


@pytest.mark.skipif(not THOROUGH, reason="the real model learns for a minute: make test-slow")
def test_the_real_model_learns_what_was_dropped(command, real_model, tmp_path):
    told = ("compress", real_model, "--drop-layers", "3", "--text", "english", "--json")
    losses = {}
    for steps in (0, 40):
        out = tmp_path / f"{steps}"
        result = command(*told, "--steps", steps, "--word-steps", steps // 4, "--out", out)
        assert result.code == 0, result.err
        said = json.loads(result.out)
        losses[steps] = said["loss"]
        ids = torch.tensor(load_tokenizer(out).encode("The boat came in with its lamps burning."))
        model = transformers.AutoModelForCausalLM.from_pretrained(out, dtype=torch.float32)
        with torch.inference_mode():
            truth = model.eval()(ids[None]).logits[0]
        assert (logits(out, ids) - truth).abs().max() < 1e-3
    assert said["loss_before"] < losses[40] < losses[0]
