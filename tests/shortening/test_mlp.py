"""An MLP learns what a span did."""

import pytest
import torch
from torch import nn

from edgewise.models.checkpoint import open_checkpoint
from edgewise.models.decoder import MlpBlock
from edgewise.quality.rounding import unseen
from edgewise.schemes import get_scheme
from edgewise.shortening import distilling
from edgewise.shortening.distilling import Distillation, new_mlp
from edgewise.shortening.judging import token_nats
from edgewise.shortening.recipe import DistillationRecipe
from edgewise.shortening.replacement import Replacement
from edgewise.shortening.shorten import TextSplit, shorten
from edgewise.shortening.spans import kept_blocks
from tests.models.mlps import write_with_mlp
from tests.shortening.test_distilling import PIECES, SPAN

MLP = {"replacement": Replacement.MLP, "batch": 6, "length": 16, "rate": 3e-3}


def distillation_of(checkpoint, family="llama", **recipe):
    source = open_checkpoint(checkpoint(family))
    return Distillation(source, SPAN, DistillationRecipe(**MLP, **recipe), PIECES)


@pytest.mark.parametrize("family", ["llama", "opt-350m"])
def test_it_begins_as_nothing_in_the_place_of_the_span(checkpoint, family):
    source = open_checkpoint(checkpoint(family))
    mlp, states = new_mlp(source.config, seed=3), torch.randn(5, 32) * 1000
    assert torch.allclose(mlp(states, None, None), states, rtol=1e-5)
    loss = distillation_of(checkpoint, family).loss(PIECES, by_words=False)
    assert loss.item() == pytest.approx(1)
    changed = {SPAN.first: mlp.requires_grad_(False)}
    whole = token_nats(source, PIECES, blocks=kept_blocks(source.config, SPAN, True),
                       changed=changed, scheme="fp32")  # fmt: skip
    gone = token_nats(source, PIECES, blocks=kept_blocks(source.config, SPAN, False), scheme="fp32")
    assert torch.allclose(whole, gone, atol=1e-4)


@pytest.mark.parametrize("by_words", [False, True])
def test_gradients_are_those_of_torchs_modules(checkpoint, monkeypatch, by_words):
    monkeypatch.setattr(distilling, "FROZEN", get_scheme("fp32"))
    distillation = distillation_of(checkpoint, steps=1, word_steps=1)
    ours = distillation.student
    with torch.no_grad():
        for weights in ours.parameters():
            weights.add_(torch.randn_like(weights) * 0.1)
    theirs = nn.Sequential(nn.Linear(32, 128), nn.ReLU(), nn.Linear(128, 32))
    theirs[0].load_state_dict(ours.fc1.state_dict())
    theirs[2].load_state_dict(ours.fc2.state_dict())
    loss = distillation.loss(PIECES, by_words)
    loss.backward()
    distillation.student = lambda states, turn, attend: theirs(states)
    truth = distillation.loss(PIECES, by_words)
    truth.backward()
    assert loss.item() == pytest.approx(truth.item(), rel=1e-5)
    for own, given in zip(ours.parameters(), theirs.parameters(), strict=True):
        assert own.grad.any()
        assert torch.allclose(own.grad, given.grad, rtol=1e-4, atol=1e-7)


@pytest.mark.parametrize("by_words", [False, True])
def test_it_learns(checkpoint, by_words):
    steps = {"steps": 0, "word_steps": 80} if by_words else {"steps": 80}
    distillation = distillation_of(checkpoint, **steps)
    losses = [step.loss for step in distillation.steps()]
    assert sum(losses[-5:]) < sum(losses[:5]) * 0.95
    learned = distillation.learned()
    assert isinstance(learned, MlpBlock) and not any(x.requires_grad for x in learned.parameters())


def test_what_is_written_says_what_was_judged(checkpoint, tmp_path):
    recipe = DistillationRecipe(**MLP, steps=3, word_steps=2)
    split = TextSplit(PIECES, PIECES)
    shorter = shorten(str(checkpoint("llama")), 2, split, recipe, unseen)
    nats = token_nats(
        shorter.checkpoint, PIECES, blocks=shorter.blocks, changed=shorter.changed, scheme="fp32"
    )
    shorter.write(tmp_path / "new")
    written = open_checkpoint(tmp_path / "new")
    assert written.config.mlp_blocks == (shorter.blocks.index(shorter.span.first),)
    assert torch.equal(token_nats(written, PIECES, scheme="fp32"), nats)


def test_a_model_with_an_mlp_is_shortened_again(checkpoint, tmp_path):
    model = write_with_mlp(tmp_path / "mlp", checkpoint("llama"))
    recipe = DistillationRecipe(steps=2, word_steps=2, batch=2, length=16)
    shorter = shorten(str(model), 1, TextSplit(PIECES, PIECES), recipe, unseen)
    shorter.write(tmp_path / "again")
    again, span = open_checkpoint(tmp_path / "again"), shorter.span
    assert again.config.num_blocks == 2
    # The first of the span is 0 or 1, and 1 is the MLP, which stays one.
    assert again.config.mlp_blocks == (() if span.first == 0 else (1,))
