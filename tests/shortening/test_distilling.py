"""One block learns what a span did: its losses and gradients are those of transformers' models."""

from itertools import islice

import pytest
import torch
import transformers

from edgewise.errors import InputError, NonFinite
from edgewise.models.checkpoint import open_checkpoint, split_parameter
from edgewise.models.names import tensor_names
from edgewise.models.rewriting import write_checkpoint
from edgewise.quality.rounding import unseen
from edgewise.schemes import get_scheme
from edgewise.shortening import distilling
from edgewise.shortening.distilling import Distillation, missing_share
from edgewise.shortening.judging import token_nats
from edgewise.shortening.recipe import DistillationRecipe
from edgewise.shortening.shorten import TextSplit, shorten
from edgewise.shortening.spans import BlockSpan, kept_blocks
from tests.conftest import VOCABULARY, random_model

SPAN = BlockSpan(1, 3)
PIECES = torch.randint(VOCABULARY, (12, 16), generator=torch.Generator().manual_seed(5))
ONE = DistillationRecipe(steps=1, word_steps=1, batch=12, length=16)


@pytest.fixture
def exact(monkeypatch):
    """The frozen model in float32, so that only the arithmetic could make a difference."""
    monkeypatch.setattr(distilling, "FROZEN", get_scheme("fp32"))


def their_gradients(family, by_words):
    """Loss and gradients of block 1 in a model of transformers' whose block 2 is taken out."""
    model = random_model(family)
    decoder = getattr(model.model, "decoder", model.model)
    seen = {}
    for name, number in (("before", 0), ("after", 2)):
        decoder.layers[number].register_forward_hook(
            lambda _, inputs, output, name=name: seen.update(
                {name: output[0] if isinstance(output, tuple) else output}
            )
        )
    with torch.no_grad():
        model(PIECES)
    before, after = seen["before"], seen["after"]
    learning = decoder.layers[1]
    learning.register_forward_hook(
        lambda _, inputs, output: seen.update(
            {"guess": output[0] if isinstance(output, tuple) else output}
        )
    )
    decoder.layers = torch.nn.ModuleList(decoder.layers[number] for number in (0, 1, 3))
    said = model(PIECES, labels=PIECES, use_cache=False)
    guess = seen["guess"]
    shares = (guess - after).norm(dim=-1) ** 2 / (after - before).norm(dim=-1) ** 2
    loss = said.loss if by_words else shares.mean()
    loss.backward()
    return loss.item(), {name: x.grad for name, x in model.named_parameters()}


@pytest.mark.parametrize("family", ["llama-tied", "llama-biases", "qwen3", "opt", "opt-350m"])
@pytest.mark.parametrize("by_words", [False, True])
def test_losses_and_gradients_are_transformers(checkpoint, family, by_words, exact):
    source = open_checkpoint(checkpoint(family))
    distillation = Distillation(source, SPAN, ONE, PIECES)
    loss = distillation.loss(PIECES, by_words)
    loss.backward()
    their_loss, theirs = their_gradients(family, by_words)
    assert loss.item() == pytest.approx(their_loss, rel=1e-4)
    names, config = source.config.names, source.config
    for parameter, weights in distillation.student.named_parameters():
        parts = split_parameter(config, parameter, weights.grad)
        for name, part in zip(
            tensor_names(names, distillation.student.kind, parameter, 1), parts, strict=True
        ):
            assert torch.allclose(part, theirs[name], rtol=1e-3, atol=1e-6), name


def test_the_share_that_is_missing():
    before, after = torch.zeros(1, 2, 3), torch.tensor([[[3.0, 0, 0], [0, 1000, 0]]])
    assert float(missing_share(before, after, before)) == pytest.approx(1)
    assert float(missing_share(before, after, after)) == 0
    assert float(missing_share(before, after, after * 0.5)) == pytest.approx(0.25)


def test_it_learns_and_the_rest_stays_as_it_is(checkpoint):
    source = open_checkpoint(checkpoint("llama"))
    recipe = DistillationRecipe(steps=80, batch=6, length=16, rate=3e-3)
    distillation = Distillation(source, SPAN, recipe, PIECES)
    frozen = {n: {k: v.clone() for k, v in x.state_dict().items()}
              for n, x in distillation.model.layers.items()}  # fmt: skip
    losses = [step.loss for step in distillation.steps()]
    assert sum(losses[-5:]) < 0.6 * sum(losses[:5])
    for number, layer in distillation.model.layers.items():
        assert all(torch.equal(v, frozen[number][k]) for k, v in layer.state_dict().items())
    assert max(distillation.model.layers) == SPAN.end  # no more was loaded


def test_by_words_it_learns_the_next_token(checkpoint):
    source = open_checkpoint(checkpoint("llama"))
    recipe = DistillationRecipe(steps=0, word_steps=60, batch=6, length=16, rate=3e-3)
    distillation = Distillation(source, SPAN, recipe, PIECES)
    losses = [step.loss for step in distillation.steps()]
    blocks = kept_blocks(source.config, SPAN, True)
    still = float(token_nats(source, PIECES, blocks=blocks, scheme="fp32").mean())
    learned = {SPAN.first: distillation.learned()}
    after = token_nats(source, PIECES, blocks=blocks, changed=learned, scheme="fp32").mean()
    assert losses[0] == pytest.approx(still, rel=0.05)  # of half of the pieces, in bf16
    assert float(after) < still - 0.3


def test_what_was_learned_does_not_change_any_more(checkpoint):
    recipe = DistillationRecipe(steps=4, batch=2, length=16)
    distillation = Distillation(open_checkpoint(checkpoint("llama")), SPAN, recipe, PIECES)
    steps = distillation.steps()
    next(steps)
    early = distillation.learned()
    was = early.qkv.weight.clone()
    list(steps)
    assert torch.equal(early.qkv.weight, was)
    assert not torch.equal(early.qkv.weight, distillation.learned().qkv.weight)


def test_a_rate_that_is_too_high_ends_it(checkpoint):
    recipe = DistillationRecipe(steps=30, batch=2, length=16, rate=1e30)
    distillation = Distillation(open_checkpoint(checkpoint("llama")), SPAN, recipe, PIECES)
    with pytest.raises(
        NonFinite, match=r"at step \d+ of 30, .* of blocks 1-2: .* nothing was written"
    ):
        list(distillation.steps())


@pytest.mark.parametrize("family", ["llama", "opt"])
def test_nats_are_transformers(checkpoint, family):
    source = open_checkpoint(checkpoint(family))
    model = random_model(family)
    decoder = getattr(model.model, "decoder", model.model)
    decoder.layers = torch.nn.ModuleList(decoder.layers[number] for number in (0, 2))
    with torch.inference_mode():
        said = model(PIECES, use_cache=False).logits.double().log_softmax(-1)
    truth = -said[:, :-1].gather(-1, PIECES[:, 1:, None])[..., 0]
    nats = token_nats(source, PIECES, blocks=[0, 2], scheme="fp32")
    assert torch.allclose(nats, truth, atol=1e-4)
    some = token_nats(source, PIECES, blocks=[0, 2], scheme="fp32", first=10)
    assert torch.allclose(some, truth[:, 9:], atol=1e-4)


def test_what_is_written_says_what_was_judged(checkpoint, tmp_path):
    recipe = DistillationRecipe(steps=3, batch=2, length=16)
    shorter = shorten(str(checkpoint("llama")), 2, TextSplit(PIECES, PIECES), recipe, unseen)
    assert len(shorter.blocks) == 2 and list(shorter.changed) == [shorter.span.first]
    nats = token_nats(
        shorter.checkpoint, PIECES, blocks=shorter.blocks, changed=shorter.changed, scheme="fp32"
    )
    shorter.write(tmp_path / "new")
    model = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "new")
    with torch.inference_mode():
        said = model.eval()(PIECES).logits.double().log_softmax(-1)
    truth = -said[:, :-1].gather(-1, PIECES[:, 1:, None])[..., 0]
    assert torch.allclose(nats, truth, atol=1e-4)


def test_without_steps_it_is_the_span_that_goes(checkpoint, tmp_path):
    recipe = DistillationRecipe(steps=0, batch=2, length=16)
    shorter = shorten(str(checkpoint("llama")), 2, TextSplit(PIECES, PIECES), recipe, unseen)
    assert not shorter.changed and not shorter.steps
    assert set(range(4)) - set(shorter.blocks) == set(range(shorter.span.first, shorter.span.end))
    shorter.write(tmp_path / "new")
    write_checkpoint(shorter.checkpoint, shorter.blocks, {}, tmp_path / "same")
    same = [(tmp_path / x / "model.safetensors").read_bytes() for x in ("new", "same")]
    assert same[0] == same[1]


def test_each_piece_comes_once_before_any_comes_again():
    recipe = DistillationRecipe(batch=4)
    drawn = torch.cat(list(islice(recipe.batches(PIECES), 6)))
    for epoch in drawn.split(12):
        assert sorted(epoch.tolist()) == sorted(PIECES.tolist())
    few = torch.cat(list(islice(recipe.batches(PIECES[:3]), 3)))
    assert sorted(few.tolist()) == sorted(PIECES[:3].tolist() * 4)


def test_the_rate_rises_and_falls():
    rates = [DistillationRecipe(rate=1.0).rate_at(step, 100) for step in range(100)]
    assert rates[:2] == pytest.approx([1 / 3, 2 / 3], rel=0.01)
    assert rates[3:] == sorted(rates[3:], reverse=True)
    assert rates[-1] == pytest.approx(0.25, abs=0.001)


@pytest.mark.parametrize("wrong", [{"rate": 0.0}, {"rate": float("nan")}, {"steps": -1},
                                   {"batch": 0}, {"length": 1}])  # fmt: skip
def test_recipes_that_cannot_be(wrong):
    with pytest.raises(InputError):
        DistillationRecipe(**wrong)


def test_a_tenth_of_the_text_is_held_out():
    pieces = torch.arange(40)[:, None]
    split = TextSplit.of(pieces, "text")
    assert split.held_out[:, 0].tolist() == [0, 10, 20, 30]
    assert sorted([*split.learned[:, 0].tolist(), 0, 10, 20, 30]) == list(range(40))
    with pytest.raises(InputError, match="text: 9 pieces of text, but 10 are needed"):
        TextSplit.of(pieces[:9], "text")
