"""Second moments of inputs, against transformers' own activations; and layers rounded by them."""

import pytest
import torch
import transformers

from edgewise.errors import QuantizationError
from edgewise.models.checkpoint import open_checkpoint
from edgewise.models.loading import Loader
from edgewise.quality.calibration import Calibration, written_by
from edgewise.quality.rounding import rounding_for
from edgewise.quality.statistics import collect_statistics, statistics_key
from edgewise.quantization.packed import Packed
from edgewise.quantization.rounding import quantize_matrix
from edgewise.quantization.statistics import Statistics, load_statistics, statistics_path
from edgewise.schemes import get_scheme

CPU = torch.device("cpu")
Q4 = get_scheme("q4g32")


@pytest.fixture
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    load_statistics.cache_clear()
    return tmp_path / "cache"


def same(one: Packed, other: Packed) -> bool:
    return all(torch.equal(tensor, other.tensors[name]) for name, tensor in one.tensors.items())


def test_moments_are_of_what_transformers_multiplies(checkpoint, ids):
    folder = checkpoint("llama")
    model = transformers.AutoModelForCausalLM.from_pretrained(folder).eval()
    seen = {}
    watched = {
        "2.out": model.model.layers[1].self_attn.o_proj,
        "4.down": model.model.layers[3].mlp.down_proj,
        "5.out": model.lm_head,
    }
    for name, module in watched.items():
        module.register_forward_pre_hook(
            lambda module, inputs, name=name: seen.__setitem__(name, inputs[0])
        )
    with torch.no_grad():
        model(ids)
    statistics = collect_statistics(str(folder), ids)
    for name, inputs in seen.items():
        expected = inputs.flatten(0, 1).square().mean(0)
        assert torch.allclose(statistics.moments[name], expected, rtol=0.05, atol=1e-4)
    blocks = {f"{i}.{name}" for i in range(1, 5) for name in ("qkv", "out", "up", "down")}
    assert set(statistics.moments) == {*blocks, "5.out"}
    assert set(statistics.of(5)) == {"out"}


def test_a_tied_table_takes_the_heads(checkpoint, ids):
    moments = collect_statistics(str(checkpoint("llama-tied")), ids).moments
    assert torch.equal(moments["0.tokens"], moments["5.out"])


def test_layers_are_rounded_by_what_their_methods_name_says(checkpoint, ids, cache):
    folder = str(checkpoint("llama-tied"))
    statistics = collect_statistics(folder, ids)
    assert statistics.keep(statistics_path("abc"))
    loader = Loader(open_checkpoint(folder), CPU, "nearest:abc")
    plain = Loader(open_checkpoint(folder), CPU)
    embedding = loader.layer(0, Q4)
    assert loader.layer(5, Q4, embedding).out.packed is not None
    for number, name in ((0, "tokens"), (3, "down"), (5, "out")):
        weight = getattr(plain.layer(number, get_scheme("fp32")), name).weight
        expected = quantize_matrix(weight, Q4, None, statistics.moments[f"{number}.{name}"])
        made = getattr(loader.layer(number, Q4), name).packed
        assert same(made, expected)
        assert not same(made, quantize_matrix(weight, Q4))
    assert same(embedding.tokens.packed, loader.layer(5, Q4).out.packed)


def test_statistics_that_are_not_here_are_missed(checkpoint, cache):
    loader = Loader(open_checkpoint(checkpoint("llama")), CPU, "nearest:none")
    with pytest.raises(QuantizationError, match="no statistics 'none' of the model's inputs are"):
        loader.layer(1, Q4)
    path = statistics_path("none")
    path.parent.mkdir(parents=True)
    path.write_bytes(b"damaged")
    with pytest.raises(QuantizationError, match="run `edgewise quantize`"):
        loader.layer(1, Q4)


def test_they_survive_their_file(cache):
    assert Statistics({"1.qkv": torch.arange(4.0)}).keep(statistics_path("k"))
    assert torch.equal(load_statistics("k").of(1)["qkv"], torch.arange(4.0))


def test_commands_collect_them_once(cache):
    name = rounding_for("demo", ["q4g64", "bf16"])
    assert name == f"nearest:{statistics_key('demo')}"
    path = statistics_path(statistics_key("demo"))
    made = path.stat().st_mtime_ns
    assert rounding_for("demo", ["q4g64"], "nearest") == name
    assert rounding_for("demo", ["4bit"]) == name  # a recipe
    assert path.stat().st_mtime_ns == made
    # Nothing to look at, or what only others know.
    assert rounding_for("demo", ["bf16"]) is None
    assert rounding_for("demo", ["t8", "q4g64"]) is None
    assert rounding_for("demo", ["q4g64"], "nearest:other") == "nearest:other"


def test_what_was_written_is_kept(cache):
    asked = Calibration(count=2, length=5, seed=9)
    first, steps = written_by("demo", asked), []
    assert torch.equal(written_by("demo", asked, steps.append), first)
    assert steps == []


def test_on_a_full_disk_nothing_is_kept_and_everything_works(cache, files_end_at):
    model, asked = "demo", Calibration(None, 16, 16, 1)
    with files_end_at(1000):
        ids = written_by(model, asked)
        assert not [path for path in cache.rglob("*") if path.is_file()]
        statistics = collect_statistics(model, ids)
        assert not statistics.keep(cache / "kept.safetensors")
    assert torch.equal(ids, written_by(model, asked))
    assert [path.suffix for path in cache.rglob("texts/*")] == [".safetensors"]
