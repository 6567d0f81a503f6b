"""Checkpoints of another one's blocks, against transformers and layers moved by hand."""

import json

import numpy as np
import pytest
import torch
import transformers
from safetensors.torch import load_file

from edgewise.errors import DiskError, InputError, ModelError
from edgewise.models import rewriting
from edgewise.models.cache import Segment
from edgewise.models.checkpoint import open_checkpoint
from edgewise.models.loading import Loader
from edgewise.models.rewriting import write_checkpoint
from edgewise.models.shard import load_shard
from edgewise.models.tokenizer import load_tokenizer
from edgewise.schemes import get_scheme
from tests.conftest import FAMILIES, VOCABULARY, random_model
from tests.models.gguf_files import write_gguf

KEPT, LENGTH = [0, 3], 23
TOKENS = torch.randint(VOCABULARY, (LENGTH,), generator=torch.Generator().manual_seed(1))
ALIKE = [family for family in FAMILIES if family != "qwen2-window"]


def ours(model, tokens=TOKENS):
    shard = load_shard(model, context=len(tokens))
    return shard.forward(tokens, [Segment(0, 0, len(tokens))])


def theirs(folder, tokens=TOKENS):
    model = transformers.AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    with torch.inference_mode():
        return model.eval()(tokens[None]).logits[0]


def moved(family, dtype=torch.float32):
    """transformers' own model of the family, with the blocks taken out by hand, and its weights
    rounded."""
    model = random_model(family)
    for weights in model.parameters():
        weights.data = weights.data.to(dtype).float()
    decoder = getattr(model.model, "decoder", model.model)
    decoder.layers = torch.nn.ModuleList(decoder.layers[number] for number in KEPT)
    with torch.inference_mode():
        return model(TOKENS[None], use_cache=False).logits[0]


@pytest.mark.parametrize("family", ALIKE)
def test_it_computes_what_the_blocks_that_stay_compute(checkpoint, family, tmp_path):
    write_checkpoint(open_checkpoint(checkpoint(family)), KEPT, {}, tmp_path / "new")
    logits, truth = ours(tmp_path / "new"), moved(family)
    assert (logits - truth).abs().max() < 1e-4
    assert (theirs(tmp_path / "new") - truth).abs().max() < 1e-4
    assert open_checkpoint(tmp_path / "new").config.num_blocks == len(KEPT)


@pytest.mark.parametrize("family", ["llama-tied", "qwen3", "opt-350m"])
def test_a_changed_block_is_written_in_the_types_that_were_stored(checkpoint, family, tmp_path):
    source = open_checkpoint(checkpoint(family))
    block = Loader(source, torch.device("cpu")).layer(1, get_scheme("fp32"))
    with torch.no_grad():
        for number, weights in enumerate(block.parameters()):
            torch.manual_seed(number)
            weights.add_(torch.randn_like(weights) * 0.1)
    write_checkpoint(source, KEPT, {0: block}, tmp_path / "new")
    shard = load_shard(checkpoint(family))
    shard = type(shard)(
        open_checkpoint(tmp_path / "new").config, 0,
        [shard.layers[0], block, shard.layers[4], shard.layers[5]], slots=1, context=LENGTH,
    )  # fmt: skip
    truth = shard.forward(TOKENS, [Segment(0, 0, LENGTH)])
    assert (ours(tmp_path / "new") - truth).abs().max() < 1e-4
    assert (theirs(tmp_path / "new") - truth).abs().max() < 1e-4


def test_several_files_have_an_index(checkpoint, tmp_path, monkeypatch):
    monkeypatch.setattr(rewriting, "FILE_BYTES", 20_000)
    write_checkpoint(open_checkpoint(checkpoint("llama")), KEPT, {}, tmp_path / "new")
    assert len(list((tmp_path / "new").glob("model-*.safetensors"))) > 2
    assert (theirs(tmp_path / "new") - moved("llama")).abs().max() < 1e-4
    assert (ours(tmp_path / "new") - moved("llama")).abs().max() < 1e-4


def test_what_is_half_written_is_nowhere(checkpoint, tmp_path, monkeypatch):
    def full(*arguments):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(rewriting, "write_tensors", full)
    with pytest.raises(DiskError, match=r"cannot be written.*No space"):
        write_checkpoint(open_checkpoint(checkpoint("llama")), KEPT, {}, tmp_path / "a" / "new")
    assert not list((tmp_path / "a").iterdir())


def test_nothing_is_written_over(checkpoint, tmp_path):
    source = open_checkpoint(checkpoint("llama"))
    (tmp_path / "empty").mkdir()
    write_checkpoint(source, KEPT, {}, tmp_path / "empty")
    for folder in (tmp_path / "empty", tmp_path / "empty" / "config.json"):
        with pytest.raises(InputError, match="is there already"):
            write_checkpoint(source, KEPT, {}, folder)
    assert (ours(tmp_path / "empty") - moved("llama")).abs().max() < 1e-4


def test_unlike_blocks_are_refused(checkpoint, tmp_path):
    with pytest.raises(ModelError, match=r"not alike \(they see 5 tokens, all tokens\)"):
        write_checkpoint(open_checkpoint(checkpoint("qwen2-window")), KEPT, {}, tmp_path / "new")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("family", ["llama", "llama-tied", "mistral-window", "qwen2", "qwen3"])
def test_of_a_gguf_file_weights_become_bf16(family, tmp_path):
    window = {"llama.attention.sliding_window": 5} if "window" in family else None
    write_gguf(tmp_path / "model.gguf", random_model(family), changes=window)
    write_checkpoint(open_checkpoint(tmp_path / "model.gguf"), KEPT, {}, tmp_path / "new")
    truth = moved(family, torch.bfloat16)
    assert (ours(tmp_path / "new") - truth).abs().max() < 1e-4
    assert (theirs(tmp_path / "new") - truth).abs().max() < 1e-4


def test_rotary_factors_one_by_one_are_refused(tmp_path):
    factors = {"rope_freqs.weight": np.ones(4, np.float32)}
    write_gguf(tmp_path / "model.gguf", random_model("llama"), extra=factors)
    with pytest.raises(ModelError, match="give the model's original checkpoint"):
        write_checkpoint(open_checkpoint(tmp_path / "model.gguf"), KEPT, {}, tmp_path / "new")


def test_of_a_file_in_blocks_of_few_bits(real_model, tmp_path):
    """The real model without blocks: transformers reads the same as we do, tokenizer included."""
    source, kept = open_checkpoint(real_model), [0, 1, 12, 28, 29]
    write_checkpoint(source, kept, {}, tmp_path / "new")
    text = "The harbour lay quiet in the early light, and only the gulls made any noise."
    tokens = torch.tensor(load_tokenizer(real_model).encode(text))
    tokenizer = transformers.AutoTokenizer.from_pretrained(tmp_path / "new")
    assert tokenizer(text)["input_ids"] == tokens.tolist()
    assert load_tokenizer(tmp_path / "new").encode(text) == tokens.tolist()
    assert load_tokenizer(tmp_path / "new").stop_ids == load_tokenizer(real_model).stop_ids
    assert load_tokenizer(tmp_path / "new").template == load_tokenizer(real_model).template
    logits = theirs(tmp_path / "new", tokens)
    assert (ours(tmp_path / "new", tokens) - logits).abs().max() < 1e-3
    new = load_file(tmp_path / "new" / "model.safetensors")
    was = source.read("model.layers.12.self_attn.q_proj.weight")
    assert torch.equal(new["model.layers.2.self_attn.q_proj.weight"], was.bfloat16())
    said = json.loads((tmp_path / "new" / "config.json").read_text())
    assert (said["num_hidden_layers"], said["dtype"]) == (5, "bfloat16")
