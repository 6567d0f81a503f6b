"""GGUF files that the `gguf` library's writer made of Hugging Face models, against these models."""

import gguf
import numpy as np
import pytest
import torch
from gguf import GGMLQuantizationType as Type

from edgewise.errors import ModelError
from edgewise.models.cache import Segment
from edgewise.models.checkpoint import open_checkpoint
from edgewise.models.config import DecoderConfig
from edgewise.models.shard import load_shard, random_shard
from edgewise.quantization.stacked import StackedLinear
from edgewise.schemes import get_scheme
from tests.conftest import LLAMA3
from tests.models.gguf_files import small_model, write_gguf

IDS = torch.tensor([1, 30, 7, 66, 2, 2, 45, 19, 3, 50])
MODELS = {
    "llama": ("Llama", {}),
    "llama-tied": ("Llama", {"tie_word_embeddings": True}),
    "llama-biases": ("Llama", {"attention_bias": True}),
    "llama-wide-heads": ("Llama", {"head_dim": 32, "num_key_value_heads": 4}),
    "mistral": ("Mistral", {"sliding_window": None}),
    "qwen2": ("Qwen2", {}),
    "qwen3": ("Qwen3", {"head_dim": 24}),
}


def logits(path, scheme="fp32"):
    return load_shard(path, schemes=scheme).forward(IDS, [Segment(0, 0, len(IDS))])


def true_logits(model):
    with torch.inference_mode():
        return model(IDS[None]).logits[0]


@pytest.mark.parametrize("family", MODELS)
def test_logits_are_the_models(family, tmp_path):
    kind, changes = MODELS[family]
    model = small_model(kind, **changes)
    path = write_gguf(tmp_path / "model.gguf", model)
    torch.testing.assert_close(logits(path), true_logits(model), atol=2e-5, rtol=1e-4)
    torch.testing.assert_close(logits(path, "stored"), true_logits(model), atol=2e-5, rtol=1e-4)


def test_a_window_is_kept(tmp_path):
    model = small_model("Mistral", sliding_window=4)
    path = write_gguf(tmp_path / "m.gguf", model, changes={"llama.attention.sliding_window": 4})
    torch.testing.assert_close(logits(path), true_logits(model), atol=2e-5, rtol=1e-4)


def test_rotary_factors_do_what_llama_3s_scaling_does(tmp_path):
    model = small_model(rope_parameters=LLAMA3)
    frequency = 1.0 / 10000.0 ** (torch.arange(0, 16, 2).float() / 16)
    factors = (frequency / model.model.rotary_emb.inv_freq).numpy()
    path = write_gguf(tmp_path / "m.gguf", model, extra={"rope_freqs.weight": factors})
    torch.testing.assert_close(logits(path), true_logits(model), atol=2e-5, rtol=1e-4)


def test_linear_scaling(tmp_path):
    rope = {"rope_type": "linear", "rope_theta": 10000.0, "factor": 2.0}
    model = small_model(rope_parameters=rope)
    changes = {"llama.rope.scaling.type": "linear", "llama.rope.scaling.factor": 2.0}
    path = write_gguf(tmp_path / "m.gguf", model, changes=changes)
    torch.testing.assert_close(logits(path), true_logits(model), atol=2e-5, rtol=1e-4)


@pytest.mark.parametrize("family", MODELS)
def test_the_configuration_is_the_models(family, tmp_path):
    kind, changes = MODELS[family]
    model = small_model(kind, **changes)
    model.save_pretrained(tmp_path)
    config = open_checkpoint(write_gguf(tmp_path / "model.gguf", model)).config
    wanted = open_checkpoint(tmp_path).config
    assert _same(config, wanted)


def _same(config: DecoderConfig, wanted: DecoderConfig) -> bool:
    fields = [name for name in DecoderConfig.__slots__ if name not in ("norm_eps", "architecture")]
    close = abs(config.norm_eps - wanted.norm_eps) < 1e-9
    return close and all(getattr(config, name) == getattr(wanted, name) for name in fields)


def mixed(name, weights):
    """As Q4_K_M mixes types, with those that the library can write."""
    if weights.ndim == 1:
        return Type.F32
    if "v_proj" in name or "down_proj" in name:
        return Type.Q8_0
    if "o_proj" in name:
        return Type.F16
    return Type.Q5_1 if "embed" in name else Type.Q4_0


def dequantized(model, choose):
    """The model with the weights that such a file means."""
    for name, parameter in model.state_dict().items():
        if name == "lm_head.weight" and model.config.tie_word_embeddings:
            continue
        weights = parameter.float().numpy()
        kind = choose(name, weights)
        raw = gguf.quants.quantize(weights, kind)
        parameter.copy_(torch.from_numpy(gguf.quants.dequantize(raw, kind)))
    return model


def test_types_may_differ_within_a_fused_matrix(tmp_path):
    path = write_gguf(tmp_path / "m.gguf", small_model(tie_word_embeddings=True), mixed)
    truth = true_logits(dequantized(small_model(tie_word_embeddings=True), mixed))
    torch.testing.assert_close(logits(path), truth, atol=2e-5, rtol=1e-4)
    shard = load_shard(path, schemes="stored")
    block = shard.layers[1]
    assert isinstance(block.qkv, StackedLinear)
    assert [part.scheme.name for part in block.qkv.parts] == ["q4g32h", "q8g32h"]
    assert block.up.scheme.name == "q4g32h"
    rough = shard.forward(IDS, [Segment(0, 0, len(IDS))])
    assert (rough - truth).norm() < 0.03 * truth.norm()
    spec = open_checkpoint(path).spec
    stored, table = get_scheme("stored"), spec.layers[0].matrix_bytes(get_scheme("stored"), 0)
    assert shard.weight_bytes == sum(layer.weight_bytes(stored) for layer in spec.layers) - table
    for start, end in ((0, 1), (1, 3), (3, 4)):
        wanted = sum(layer.weight_bytes(stored) for layer in spec.layers[start:end])
        assert load_shard(path, start, end, "stored").weight_bytes == wanted
        room = {"device": "cpu", "slots": 1, "context": 8, "spec": spec}
        made = random_shard(open_checkpoint(path).config, start, end, "stored", **room)
        assert made.weight_bytes == wanted


@pytest.mark.parametrize("scheme", ["q4g32ad", "q8g64", "bf16", "t8"])
def test_other_schemes_start_from_the_dequantized_weights(scheme, tmp_path):
    path = write_gguf(tmp_path / "m.gguf", small_model(), mixed)
    dequantized(small_model(), mixed).save_pretrained(tmp_path / "hf")
    torch.testing.assert_close(logits(path, scheme), logits(tmp_path / "hf", scheme))


@pytest.mark.parametrize(
    ("dtype", "scheme"),
    [(torch.float32, "fp32"), (torch.bfloat16, "bf16"), (torch.float16, "fp16")],
)
def test_stored_is_the_own_type_of_a_safetensors_checkpoint(dtype, scheme, tmp_path):
    small_model(tie_word_embeddings=True).to(dtype).save_pretrained(tmp_path)
    spec, shard = open_checkpoint(tmp_path).spec, load_shard(tmp_path, schemes="stored")
    assert torch.equal(logits(tmp_path, "stored"), logits(tmp_path, scheme))
    assert shard.weight_bytes == load_shard(tmp_path, schemes=scheme).weight_bytes
    for layer in spec.layers:
        assert layer.weight_bytes(get_scheme("stored")) == layer.weight_bytes(get_scheme(scheme))


def test_types_that_no_scheme_holds_are_named(tmp_path):
    def choose(name, weights):
        return Type.F32 if weights.ndim == 1 else Type.TQ2_0

    model = small_model(hidden_size=256, intermediate_size=256)
    checkpoint = open_checkpoint(write_gguf(tmp_path / "m.gguf", model, choose))
    assert checkpoint.notes == ["no scheme holds the types TQ2_0: these matrices are kept as bf16"]
    truth = true_logits(dequantized(model, choose))
    torch.testing.assert_close(logits(tmp_path / "m.gguf"), truth, atol=2e-5, rtol=1e-4)
    assert (logits(tmp_path / "m.gguf", "stored") - truth).norm() < 0.03 * truth.norm()


def test_a_shard_reads_only_its_own_tensors(tmp_path, monkeypatch):
    path, read = write_gguf(tmp_path / "m.gguf", small_model(), mixed), []
    kind = type(open_checkpoint(path))
    bytes_of = kind._bytes
    monkeypatch.setattr(
        kind, "_bytes", lambda self, at, n: read.append((at, n)) or bytes_of(self, at, n)
    )
    checkpoint = open_checkpoint(path)
    load_shard(checkpoint, 1, 2, "stored")
    mine = [x for x in checkpoint.header.tensors.values() if x.name.startswith("blk.0.")]
    assert sum(n for _, n in read) == sum(tensor.nbytes for tensor in mine)
    first, last = min(x.offset for x in mine), max(x.offset + x.nbytes for x in mine)
    assert all(first <= at and at + n <= last for at, n in read)


def test_a_folder_with_one_file(tmp_path):
    write_gguf(tmp_path / "a.gguf", small_model())
    assert torch.equal(logits(tmp_path), logits(tmp_path / "a.gguf"))
    write_gguf(tmp_path / "b.gguf", small_model())
    with pytest.raises(ModelError, match=r"several GGUF files; give one of them: a\.gguf, b\.gguf"):
        open_checkpoint(tmp_path)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"general.architecture": "gemma3"},
            "'gemma3' is not supported; supported: llama, mistral",
        ),
        ({"llama.block_count": None}, "key 'llama.block_count' is missing"),
        ({"llama.block_count": "two"}, "is 'two', not a size"),
        ({"llama.block_count": 3}, r"tensor 'blk\.2\.attn_q\.weight' is missing"),
        ({"llama.block_count": 2**31 - 1}, "2147483647 blocks, but only 21 tensors"),
        ({"llama.embedding_length": 2**31}, "not a size"),
        ({"llama.feed_forward_length": 2**30}, "the configuration asks for 2147483648 rows"),
        ({"llama.feed_forward_length": 64}, "the configuration asks for"),
        ({"llama.attention.head_count": 8}, "the configuration asks for"),
        ({"llama.attention.head_count_kv": 3}, "do not share 3 key/value heads"),
        ({"llama.attention.value_length": 8}, "keys and values of different sizes"),
        ({"llama.rope.dimension_count": 8}, "part of a head"),
        ({"llama.rope.scaling.type": "yarn"}, "rope scaling 'yarn' is not supported"),
        ({"llama.rope.freq_base": float("nan")}, "not a positive number"),
    ],
)
def test_metadata_that_cannot_be(changes, message, tmp_path):
    path = write_gguf(tmp_path / "m.gguf", small_model(), changes=changes)
    with pytest.raises(ModelError, match=message):
        load_shard(path)


def test_a_rotary_table_of_the_wrong_length(tmp_path):
    extra = {"rope_freqs.weight": np.ones(5, dtype=np.float32)}
    path = write_gguf(tmp_path / "m.gguf", small_model(), extra=extra)
    with pytest.raises(ModelError, match="5 rope divisors for heads of 16"):
        open_checkpoint(path)
