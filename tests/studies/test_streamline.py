"""The study of shorter models: its measures by hand, and the page that few steps make."""

import json
import math
from pathlib import Path

import pytest
import torch

from edgewise.demo.questions import draw_questions, prompt
from edgewise.errors import InputError
from edgewise.models.checkpoint import open_checkpoint
from edgewise.schemes import get_scheme
from edgewise.shortening.recipe import DistillationRecipe
from edgewise.shortening.replacement import Replacement
from edgewise.studies.streamline.choices import CONTEXT, OPTIONS, Choices, stability
from edgewise.studies.streamline.measured import (
    DISTILLED,
    FULL,
    GONE,
    STILL,
    THEN_WORDS,
    blocks_to_drop,
    parameters,
    shorter_spec,
    streamlined,
    widest_within,
)
from edgewise.studies.streamline.page import page_of
from edgewise.studies.streamline.texts import handbook_pages, study_texts
from tests.conftest import random_model

PAGE = """<h1>no</h1><div class="para">A &amp;
  <b>b</b></div><div>no</div><div class="para">c</div>"""


def test_stability_is_the_papers_formula() -> None:
    nats = torch.tensor([[1.0, 2.0], [0.5, 0.5], [1.0, 1.2]], dtype=torch.float64)
    spread = [(math.exp(2) - math.exp(1)) / 2, 0.0, (math.exp(1.2) - math.exp(1)) / 2]
    weights = [math.exp(x) / sum(map(math.exp, spread)) for x in spread]
    was, now = torch.tensor([True, False, True]), torch.tensor([False, False, True])
    stable, questions = stability(nats, was, now)
    assert stable == pytest.approx(weights[1] + weights[2])
    # The paper's code sums the first weights, as many as there are matches.
    assert stable != pytest.approx(weights[0] + weights[1], abs=0.01)
    assert questions == pytest.approx(1 / sum(w * w for w in weights))
    assert stability(nats, was, was)[0] == pytest.approx(1)


def test_questions_have_one_true_continuation() -> None:
    text = torch.arange(48 * 9)
    choices = Choices.drawn(text, 8, seed=1)
    assert choices.ids.shape == (8, OPTIONS, 48)
    for options, right in zip(choices.ids, choices.right, strict=True):
        goes_on = [int(x[CONTEXT]) == int(x[CONTEXT - 1]) + 1 for x in options]
        assert goes_on == [number == int(right) for number in range(OPTIONS)]
        assert len({tuple(x[:CONTEXT].tolist()) for x in options}) == 1
    assert len({int(x[0, 0]) for x in choices.ids}) == 8
    assert len(set(choices.right.tolist())) > 1
    nats = torch.ones(8, OPTIONS)
    nats[torch.arange(8), choices.right] = 0.5
    assert choices.are_right(nats).all()
    with pytest.raises(InputError, match="too few for 10 questions"):
        Choices.drawn(text, 10)


@pytest.mark.parametrize("family", ["llama", "llama-tied", "opt"])
def test_parameters_are_transformers(checkpoint, family) -> None:
    spec, model = open_checkpoint(checkpoint(family)).spec, random_model(family)
    counted = {x.data_ptr(): x.numel() for x in model.parameters()}
    assert parameters(spec) == sum(counted.values())
    blocks = getattr(model.model, "decoder", model.model).layers
    assert parameters(spec, ends=False) == sum(x.numel() for x in blocks.parameters())
    shorter = shorter_spec(spec, 3)
    block = sum(x.numel() for x in blocks[0].parameters())
    assert parameters(spec) - parameters(shorter) == block


def test_a_quarter_of_the_real_model_is_ten_blocks(real_model) -> None:
    spec = open_checkpoint(real_model).spec
    assert blocks_to_drop(spec) == 10
    assert parameters(shorter_spec(spec, 21)) > 0.75 * parameters(spec)
    size = spec.weight_bytes(["5bit"] * spec.num_layers)
    assert widest_within(spec, size) == "5bit"
    assert widest_within(spec, size - 1) == "4bit"
    assert widest_within(spec, 1) is None
    assert [blocks_to_drop(shorter_spec(spec, n)) for n in (1, 2, 3)] == [1, 1, 2]


def test_paragraphs_of_pages(tmp_path: Path) -> None:
    (tmp_path / "a.html").write_text(PAGE)
    assert handbook_pages(tmp_path) == ["A & b\n\nc"]
    with pytest.raises(InputError, match="apt-get install debian-handbook"):
        handbook_pages(tmp_path / "none")


def test_the_page_of_the_demo_model(tmp_path: Path) -> None:
    drawn = draw_questions(1, 400, "train")
    lines = [f"{prompt(x.context, x.question)} {x.answer}" for x in drawn]
    pages = ["\n".join(lines[i : i + 10]) for i in range(0, 400, 10)]
    texts = study_texts("demo", pages, length=32, rows=4, row_length=48, questions=12)
    said: list[str] = []
    recipe = DistillationRecipe(steps=12, word_steps=4, batch=2, length=32)
    found = streamlined("demo", texts, recipe, said.append)
    ways = {x.name.rpartition(": ")[2]: x for x in found.judged}
    blocks = open_checkpoint("demo").config.num_blocks
    full, still, gone = ways[FULL], ways[STILL], ways[GONE]
    assert (full.blocks, full.stability, full.agreement) == (blocks, pytest.approx(1), 1)
    assert still.blocks == gone.blocks + 1 == blocks - found.dropped
    assert all(x.own > full.own for name, x in ways.items() if x.blocks < blocks)
    # Few steps are enough to be better than none: by what is learned, on pages that were held out.
    by_states, by_words = DISTILLED[Replacement.BLOCK], THEN_WORDS[Replacement.BLOCK]
    assert ways[by_words].own < ways[by_states].own < still.own
    mlp_states, mlp_words = (ways[x[Replacement.MLP]] for x in (DISTILLED, THEN_WORDS))
    assert max(mlp_words.own, mlp_states.own) < gone.own
    hidden, block = found.spec.hidden_size, full.parameters - gone.parameters
    assert mlp_states.blocks == still.blocks and mlp_words.size == mlp_states.size
    assert mlp_states.parameters - gone.parameters == 8 * hidden**2 + 5 * hidden
    assert still.parameters - gone.parameters == block // (full.blocks - gone.blocks)
    bits = [x for x in found.judged if ", in " in x.name and x.name.startswith(FULL)]
    in_few = next(x for x in found.judged if x.name.startswith("shorter"))
    assert bits[0].size <= still.size and bits[-1].size <= in_few.size
    assert in_few.size < found.spec.weight_bytes(["4bit"] * found.spec.num_layers)
    assert get_scheme(in_few.name.rpartition(" ")[2]).bits == 4
    page = page_of(found)
    files = page.write(tmp_path)
    document = json.loads(files[1].read_text())
    judged, similar, learning, kept, tasks = (section["rows"] for section in document["sections"])
    assert len(judged) == len(found.judged) and len(similar) == blocks
    assert [row["steps"] for row in learning] == [12, 4, 12, 4]
    assert (len(kept), len(tasks)) == (4, 7)
    assert {path.suffix for path in files} == {".md", ".json", ".png", ".svg"}
