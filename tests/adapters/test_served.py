"""Adapters as they serve: a real model's logits with them are those of transformers and peft, and
those by which they were judged when they were trained."""

import peft
import pytest
import torch
from transformers import AutoModelForCausalLM

from edgewise.adapters import AdapterConfig, Kind
from edgewise.adapters.served import open_adapter
from edgewise.models.cache import Segment
from edgewise.models.checkpoint import open_checkpoint
from edgewise.models.shard import load_shard
from edgewise.models.tokenizer import load_tokenizer
from edgewise.tuning.loading import load_tunable, save_tuned
from edgewise.tuning.method import TuningMethod
from edgewise.tuning.recipe import Recipe
from edgewise.tuning.training import Training
from tests.adapters.made import write_adapter
from tests.models.test_real_model import TEXT
from tests.tuning.test_model import LESSONS

pytestmark = pytest.mark.filterwarnings("ignore:.*is_gradient_checkpointing.*:FutureWarning")


@torch.no_grad()
def test_a_real_models_logits_are_those_of_peft(real_model, tmp_path):
    """All of a text at once, and its end token by token, beside a plain sequence."""
    ids, opened = load_tokenizer(real_model).encode(TEXT), open_checkpoint(str(real_model))
    base = AutoModelForCausalLM.from_pretrained(
        real_model.parent, gguf_file=real_model.name, dtype=torch.float32
    ).eval()
    plain = base(torch.tensor([ids])).logits[0]
    shard = load_shard(real_model, schemes="fp32", slots=3, context=128)
    for number, kind in enumerate(("lora", "private"), 1):
        folder = write_adapter(tmp_path / kind, real_model, kind=kind, rank=8, size=0.02)
        adapter = open_adapter(folder, opened.config, opened.spec.digest)
        for block, added in enumerate(adapter.blocks):
            shard.adapters.hold(number, block, added)
        model = peft.PeftModel.from_pretrained(base, folder).eval()
        truth = model(torch.tensor([ids])).logits[0]
        base = model.unload()
        assert (truth - plain).abs().max() > 1
        sequence, count = 10 * number, len(ids)
        ours = shard.forward(torch.tensor(ids), [Segment(sequence, 0, count, number)])
        assert (ours - truth).abs().max() < 1e-3
        shard.drop(sequence)
        begun = Segment(sequence, 0, count - 3, number), Segment(5, 0, count - 3)
        shard.forward(torch.tensor(ids[:-3] * 2), list(begun))
        for at in range(count - 3, count):
            step = [Segment(sequence, at, 1, number), Segment(5, at, 1)]
            logits = shard.forward(torch.tensor(ids[at : at + 1] * 2), step)
            assert (logits[0] - truth[at]).abs().max() < 1e-3
            assert (logits[1] - plain[at]).abs().max() < 1e-3
        shard.drop(sequence)
        shard.drop(5)


@pytest.mark.parametrize("method", [TuningMethod.LORA, TuningMethod.PRIVATE])
def test_what_was_trained_is_what_serves(checkpoint, tmp_path, method):
    opened = open_checkpoint(str(checkpoint("qwen2")))
    kind = Kind.PRIVATE if method is TuningMethod.PRIVATE else Kind.LORA
    recipe = Recipe(method, steps=4, batch=3, rate=1e-2, adapter=AdapterConfig(kind, 4))
    model = load_tunable(opened, "fp32", recipe.adapter, recipe.windows(4))
    training = Training(model, recipe, LESSONS)
    while training.done < recipe.steps:
        training.step()
    save_tuned(training.state()[1], tmp_path, opened, recipe)
    adapter = open_adapter(tmp_path, opened.config, opened.spec.digest)
    shard, tokens = load_shard(opened, slots=2), torch.tensor([5, 9, 33, 21, 60, 7, 2])
    for block, added in enumerate(adapter.blocks):
        shard.adapters.hold(1, block, added)
    with torch.no_grad():
        judged = model.logits(model.through(model.entered(tokens[None]), 0, 4), model.windows[0])[0]
    served, plain = (shard.forward(tokens, [Segment(i, 0, 7, i)]) for i in (1, 0))
    torch.testing.assert_close(served, judged, rtol=1e-4, atol=1e-4)
    assert (served - plain).abs().max() > 0.01
