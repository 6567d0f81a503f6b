"""Quantized layers: true to the dequantized weights, read once, kept on disk."""

from collections import Counter

import pytest
import torch

from edgewise.errors import QuantizationError
from edgewise.models.cache import Segment
from edgewise.models.checkpoint import open_checkpoint
from edgewise.models.decoder import Block, Head
from edgewise.models.linear import Linear
from edgewise.models.loading import matrix_modules
from edgewise.models.safetensors_checkpoint import SafetensorsCheckpoint as Checkpoint
from edgewise.models.shard import load_shard, random_shard
from edgewise.quantization import Store
from edgewise.quantization.linear import PackedLinear
from edgewise.quantization.statistics import Statistics, statistics_path
from edgewise.schemes import RECIPES, get_scheme
from tests.conftest import FAMILIES, VOCABULARY, random_model

LENGTH = 11
TOKENS = torch.randint(VOCABULARY, (LENGTH,), generator=torch.Generator().manual_seed(2))


def logits(shard, tokens=TOKENS):
    return shard.forward(tokens, [Segment(0, 0, len(tokens))])


@pytest.fixture
def reads(monkeypatch):
    """How often each tensor of a checkpoint is read."""
    counts, read = Counter(), Checkpoint.read
    monkeypatch.setattr(Checkpoint, "read", lambda self, t: counts.update([t]) or read(self, t))
    return counts


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("scheme", ["q4g64", "q3g32a", "q8g32", "t6"])
def test_equals_the_layers_that_hold_the_dequantized_weights(
    checkpoint, family, scheme, monkeypatch
):
    """In torch alone, so that only the way the weights are stored could make a difference; the
    kernels round activations, too (tests/kernels)."""
    for kind in (PackedLinear, Linear):
        monkeypatch.setattr(kind, "native", lambda self: None)
    quantized = load_shard(checkpoint(family), schemes=scheme)
    plain = load_shard(checkpoint(family), schemes="bf16")
    for layer, other in zip(quantized.layers, plain.layers, strict=True):
        dtype = torch.float32 if isinstance(layer, Head) else torch.bfloat16
        for name, module in matrix_modules(other):
            weight = getattr(layer, name).packed.dequantized()
            module.weight = torch.nn.Parameter(weight.to(dtype))
    assert torch.equal(logits(quantized), logits(plain))


@pytest.mark.parametrize("family", ["llama", "llama-tied", "opt-350m"])
def test_every_cut_equals_the_whole(checkpoint, family):
    folder = checkpoint(family)
    whole = load_shard(folder, schemes="q5g32")
    expected = logits(whole)
    for cut in range(1, whole.end):
        states = TOKENS
        for part in (load_shard(folder, 0, cut, "q5g32"), load_shard(folder, cut, None, "q5g32")):
            states = logits(part, states)
        assert torch.equal(states, expected), cut


def test_every_layer_may_take_its_own_scheme(checkpoint):
    schemes = ["q8g64", "q2g32", "bf16", "q4g64a", "fp32", "q6g128"]
    shard = load_shard(checkpoint("llama"), schemes=schemes)
    spec = open_checkpoint(checkpoint("llama")).spec
    expected = sum(
        layer.weight_bytes(get_scheme(s)) for layer, s in zip(spec.layers, schemes, strict=True)
    )
    assert shard.weight_bytes == expected
    blocks = [layer for layer in shard.layers if isinstance(layer, Block)]
    assert [next(block.parameters()).dtype for block in blocks] == [
        torch.bfloat16, torch.bfloat16, torch.bfloat16, torch.float32,
    ]  # fmt: skip
    assert torch.isfinite(logits(shard)).all()


def test_a_tied_matrix_is_packed_and_read_once(checkpoint, reads):
    shard = load_shard(checkpoint("llama-tied"), schemes="q4g32")
    assert shard.layers[-1].out.codes.data_ptr() == shard.layers[0].tokens.codes.data_ptr()
    assert set(reads.values()) == {1}
    spec = open_checkpoint(checkpoint("llama-tied")).spec
    scheme = get_scheme("q4g32")
    both = sum(layer.weight_bytes(scheme) for layer in spec.layers)
    assert shard.weight_bytes == both - scheme.matrix_bytes(*spec.layers[0].matrices[0])


@pytest.mark.parametrize("scheme", ["fp32", "q4g64", "q3g32a", "t8"])
def test_random_layers_take_what_real_ones_take(checkpoint, scheme):
    config = open_checkpoint(checkpoint("llama")).config
    real = load_shard(checkpoint("llama"), schemes=scheme)
    made = random_shard(config, 0, 6, scheme, device="cpu", slots=1, context=20)
    assert made.weight_bytes == real.weight_bytes
    assert torch.isfinite(logits(made)).all()


def test_bad_weights_are_named(tmp_path):
    model = random_model("llama")
    with torch.no_grad():
        model.model.layers[1].mlp.up_proj.weight[3, 4] = float("nan")
    model.save_pretrained(tmp_path)
    load_shard(tmp_path, 1, 2, "q4g64")
    with pytest.raises(QuantizationError) as caught:
        load_shard(tmp_path, 2, 3, "q4g64")
    assert str(caught.value) == (
        f"{tmp_path}: model.layers.1.mlp.gate_proj.weight, model.layers.1.mlp.up_proj.weight "
        "holds numbers that are not finite"
    )


class TestStore:
    @pytest.fixture
    def store(self, tmp_path, monkeypatch):
        monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
        return Store(tmp_path / "layers")

    def test_a_layer_is_quantized_once(self, checkpoint, store, reads):
        first = load_shard(checkpoint("llama"), 1, 3, "q4g64", store=store)
        assert len(list(store.folder.iterdir())) == 2
        reads.clear()
        again = load_shard(checkpoint("llama"), 1, 4, "q4g64", store=store)
        matrices = {name for name in reads if not name.endswith("norm.weight")}
        assert all(".layers.2." in name for name in matrices)  # blocks 0 and 1 were there
        states = torch.randn(LENGTH, 32)
        plain = load_shard(checkpoint("llama"), 1, 4, "q4g64")
        assert torch.equal(logits(again, states), logits(plain, states))
        assert torch.equal(first.layers[0].qkv.codes, again.layers[0].qkv.codes)

    def test_schemes_methods_and_weights_are_kept_apart(self, checkpoint, store):
        for family, scheme in (("llama", "q4g64"), ("llama", "q4g32"), ("mistral", "q4g64")):
            load_shard(checkpoint(family), 2, 3, scheme, store=store)
        names = {path.name for path in store.folder.iterdir()}
        assert len(names) == 2 or len(names) == 3
        digests = ["a", "b"]
        paths = {
            store.path(digests, get_scheme(scheme), method)
            for scheme in ("q4g64", "q4g32") for method in ("nearest", "gptq")
        }  # fmt: skip
        assert len(paths) == 4
        assert store.path(digests[::-1], get_scheme("q4g64"), "nearest") not in paths

    def test_changed_weights_are_quantized_again(self, tmp_path, store):
        model = random_model("llama")
        for scale in (1.0, 2.0):
            with torch.no_grad():
                model.model.layers[0].mlp.down_proj.weight.mul_(scale)
            model.save_pretrained(tmp_path / "model")
            shard = load_shard(tmp_path / "model", 1, 2, "q8g64", store=store)
            expected = load_shard(tmp_path / "model", 1, 2, "q8g64")
            assert torch.equal(shard.layers[0].down.scale, expected.layers[0].down.scale)
        assert len(list(store.folder.iterdir())) == 2

    def test_equal_layers_with_other_inputs_are_kept_apart(self, tmp_path, store):
        model = random_model("llama")
        model.model.layers[1].load_state_dict(model.model.layers[0].state_dict())
        model.save_pretrained(tmp_path / "model")
        odds = torch.rand(2, 32, generator=torch.Generator().manual_seed(3)) ** 8
        Statistics({"1.qkv": odds[0], "2.qkv": odds[1]}).keep(statistics_path("some-text"))
        where = {"schemes": "q2g32", "method": "nearest:some-text"}
        kept = load_shard(tmp_path / "model", 1, 3, store=store, **where).layers
        made = load_shard(tmp_path / "model", 1, 3, **where).layers
        assert not torch.equal(made[0].qkv.codes, made[1].qkv.codes)
        for layer, other in zip(kept, made, strict=True):
            assert torch.equal(layer.qkv.codes, other.qkv.codes)

    @pytest.mark.parametrize("damage", ["half", "empty", "other"])
    def test_a_damaged_file_is_made_again(self, checkpoint, store, damage):
        expected = load_shard(checkpoint("llama"), 1, 2, "q4g64", store=store)
        (path,) = store.folder.iterdir()
        whole = path.read_bytes()
        if damage == "other":
            load_shard(checkpoint("llama"), 5, 6, "q4g64", store=store)
            (other,) = set(store.folder.iterdir()) - {path}
            path.write_bytes(other.read_bytes())
        else:
            path.write_bytes(whole[: len(whole) // 2] if damage == "half" else b"")
        again = load_shard(checkpoint("llama"), 1, 2, "q4g64", store=store)
        assert torch.equal(again.layers[0].qkv.codes, expected.layers[0].qkv.codes)
        assert path.read_bytes() == whole

    def test_the_oldest_make_room(self, checkpoint, store):
        small = Store(store.folder, most_bytes=1)
        for layer in (1, 2, 3):
            load_shard(checkpoint("llama"), layer, layer + 1, "q4g64", store=small)
            assert len(list(store.folder.iterdir())) == 1


@pytest.mark.parametrize("recipe", RECIPES)
@pytest.mark.parametrize("family", ["llama", "llama-tied"])
def test_a_recipe_is_its_parts(checkpoint, family, recipe):
    """The same numbers, and the same bytes, as with each layer's scheme written out."""
    folder = checkpoint(family)
    spec = open_checkpoint(folder).spec
    blocks, ends = RECIPES[recipe]
    schemes = [ends, *[blocks] * spec.num_blocks, ends]
    asked, written = load_shard(folder, schemes=recipe), load_shard(folder, schemes=schemes)
    assert torch.equal(logits(asked), logits(written))
    assert asked.weight_bytes == written.weight_bytes
    for layer, name in zip(spec.layers, schemes, strict=True):
        assert layer.weight_bytes(get_scheme(recipe)) == layer.weight_bytes(get_scheme(name))
    random = random_shard(
        open_checkpoint(folder).config, 0, spec.num_layers, recipe,
        device="cpu", slots=1, context=8,
    )  # fmt: skip
    table = spec.layers[0].matrix_bytes(get_scheme(recipe), 0)
    assert random.weight_bytes - (table if spec.tied else 0) == asked.weight_bytes
