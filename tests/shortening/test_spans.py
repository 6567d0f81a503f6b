"""Similarities of spans, against hooks in transformers' own models."""

import pytest
import torch
import transformers

from edgewise.errors import InputError, ModelError
from edgewise.models.checkpoint import open_checkpoint
from edgewise.models.tokenizer import load_tokenizer
from edgewise.shortening.spans import (
    BlockSpan,
    check_dropped,
    kept_blocks,
    most_similar,
    span_similarities,
)
from tests.conftest import VOCABULARY, random_model
from tests.seeds import THOROUGH

IDS = torch.randint(VOCABULARY, (3, 17), generator=torch.Generator().manual_seed(3))


def hooked(model, ids, length):
    """Cosines of the states before and behind each span, by hooks on transformers' blocks."""
    decoder = getattr(model.model, "decoder", model.model)
    states, handles = [], []

    def before(_, inputs, named):
        states.append(inputs[0] if inputs else named["hidden_states"])

    def behind(_, __, outputs):
        states.append(outputs[0] if isinstance(outputs, tuple) else outputs)

    for block in decoder.layers:
        handles.append(block.register_forward_pre_hook(before, with_kwargs=True))
    handles.append(decoder.layers[-1].register_forward_hook(behind))
    with torch.inference_mode():
        model.eval()(ids)
    for handle in handles:
        handle.remove()
    cosine = torch.nn.CosineSimilarity(dim=-1)
    pairs = zip(states, states[length:], strict=False)
    return [float(cosine(a.double(), b.double()).mean()) for a, b in pairs]


@pytest.mark.parametrize("family", ["llama", "qwen3", "mistral-window", "opt", "opt-350m"])
@pytest.mark.parametrize("length", [1, 2, 3])
def test_similarities_are_those_of_hooks(checkpoint, family, length):
    found = span_similarities(open_checkpoint(checkpoint(family)), IDS, [length])[length]
    assert found == pytest.approx(hooked(random_model(family), IDS, length), abs=1e-5)
    assert len(found) == 4 - length + 1


@pytest.mark.skipif(not THOROUGH, reason="two readings of the real model: make test-slow")
def test_similarities_of_the_real_model_are_those_of_hooks(real_model):
    text = "The harbour lay quiet in the early light, and only the gulls made any noise. " * 4
    ids = torch.tensor(load_tokenizer(real_model).encode(text)[:64])[None]
    model = transformers.AutoModelForCausalLM.from_pretrained(
        real_model.parent, gguf_file=real_model.name, dtype=torch.float32
    )
    found = span_similarities(open_checkpoint(real_model), ids, [1, 11])
    for length, similarities in found.items():
        assert similarities == pytest.approx(hooked(model, ids, length), abs=1e-4)


def test_the_last_span_is_not_normalised(checkpoint):
    """Unlike transformers' `hidden_states`, whose last entry is: that gives another number."""
    model = random_model("llama")
    found = span_similarities(open_checkpoint(checkpoint("llama")), IDS, [1])[1]
    with torch.inference_mode():
        *_, before, normalised = model(IDS, output_hidden_states=True).hidden_states
    theirs = float(torch.cosine_similarity(before, normalised, dim=-1).mean())
    assert abs(found[-1] - theirs) > 1e-3


def test_of_several_lengths_at_once(checkpoint):
    source = open_checkpoint(checkpoint("llama"))
    together = span_similarities(source, IDS, [1, 3])
    assert together == {n: span_similarities(source, IDS, [n])[n] for n in (1, 3)}


def test_which_blocks_stay(checkpoint):
    span = most_similar([0.1, 0.7, 0.3], 2)
    assert (span, str(span)) == (BlockSpan(1, 3), "blocks 1-2")
    config = open_checkpoint(checkpoint("llama")).config
    assert kept_blocks(config, span, False) == [0, 3]
    assert kept_blocks(config, span, True) == [0, 1, 3]


@pytest.mark.parametrize("dropped", [-1, 0, 4, 5])
def test_so_many_cannot_be_dropped(checkpoint, dropped):
    with pytest.raises(InputError, match=f"{dropped} blocks cannot be dropped: .* give 1 to 3"):
        check_dropped(open_checkpoint(checkpoint("llama")), dropped)


def test_of_unlike_blocks_none_can(checkpoint):
    with pytest.raises(ModelError, match="not alike"):
        check_dropped(open_checkpoint(checkpoint("qwen2-window")), 1)
