"""Numbers that are none are found where they arise: in files, in narrow types, and on the way."""

import json
import math
import shutil

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file

from edgewise.cli.terminal import print_json
from edgewise.errors import EdgewiseError, ModelError, NonFinite
from edgewise.models.cache import Segment
from edgewise.models.checkpoint import open_checkpoint
from edgewise.models.finite import all_finite
from edgewise.models.shard import load_shard, random_shard
from edgewise.quality.sensitivity import measure_sensitivity
from edgewise.runtime.sampling import Sampling, sample
from edgewise.schemes import CacheType

ANY = st.floats(width=32, allow_nan=True, allow_infinity=True)


@given(st.lists(ANY, max_size=50), st.sampled_from([torch.float32, torch.bfloat16, torch.float16]))
def test_all_finite_is_what_torch_says(numbers, dtype):
    tensor = torch.tensor(numbers, dtype=torch.float64).to(dtype)
    assert all_finite(tensor) == bool(tensor.isfinite().all())


def test_large_numbers_are_numbers():
    assert all_finite(torch.full((1000,), 3e38))  # whose sum is none in float32
    assert not all_finite(torch.tensor([3e38, math.inf, -math.inf]))


@pytest.fixture
def changed(checkpoint, tmp_path):
    """A checkpoint with one tensor changed."""

    def make(name, change):
        folder = tmp_path / "model"
        shutil.copytree(checkpoint("llama"), folder)
        tensors = load_file(folder / "model.safetensors")
        tensors[name] = change(tensors[name])
        save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
        return folder

    return make


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize(
    ("name", "layer"),
    [("model.layers.2.self_attn.k_proj.weight", 3), ("model.norm.weight", 5)],
)
def test_weights_that_are_no_numbers_are_named(changed, name, layer, bad):
    folder = changed(name, lambda x: x.flatten().index_fill(0, torch.tensor(7), bad).view(x.shape))
    with pytest.raises(ModelError, match=rf"layer {layer} in fp32: .*{name}.* not finite"):
        load_shard(folder)


def test_weights_too_large_for_a_type_are_named(changed):
    name = "model.layers.0.mlp.down_proj.weight"
    folder = changed(name, lambda x: x * 1e7)
    load_shard(folder, schemes="bf16")
    with pytest.raises(ModelError, match=rf"layer 1 in fp16: {name} holds numbers .*too narrow"):
        load_shard(folder, schemes="fp16")


def test_layers_that_overflow_are_named(changed):
    """Every weight can be held in half precision, the products cannot."""
    folder = changed("model.layers.1.mlp.gate_proj.weight", lambda x: x.sign() * 6e4)
    ids = torch.arange(6)
    shard = load_shard(folder, 0, 3, "fp16")
    with pytest.raises(NonFinite, match="layers 0-2 computed numbers that are not finite"):
        shard.forward(ids, [Segment(0, 0, 6)])


def test_a_measurement_names_the_layer(changed):
    folder = changed("model.layers.1.mlp.gate_proj.weight", lambda x: x.sign() * 1e38)
    with pytest.raises(NonFinite, match="layer 2 computed numbers that are not finite"):
        measure_sensitivity(str(folder), ("bf16",), torch.arange(12).view(2, 6))


@pytest.mark.parametrize("kind", CacheType)
def test_timing_reads_numbers_only(checkpoint, kind):
    """The tokens that a timing looks back at never came."""
    config = open_checkpoint(checkpoint("llama")).config
    shard = random_shard(config, 1, 6, "fp32", device="cpu", slots=2, context=40, cache=kind)
    states = torch.randn(2, config.hidden_size)
    shard.forward(states, [Segment(0, 30, 1), Segment(1, 39, 1)])


@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_no_token_is_drawn_from_nan(temperature):
    logits = torch.tensor([0.5, math.nan, 3.0])
    with pytest.raises(NonFinite, match="the logits of position 4 are not finite"):
        sample(logits, Sampling(temperature), 4)
    ruled_out = torch.tensor([0.5, -math.inf, 0.4])
    assert sample(ruled_out, Sampling(temperature), 4) in (0, 2)


def test_json_output_holds_numbers_only(capsys):
    print_json({"a": [1.5, None], "b": "NaN"})
    assert json.loads(capsys.readouterr().out) == {"a": [1.5, None], "b": "NaN"}
    with pytest.raises(EdgewiseError, match=r"'plans\.1\.loss' came out as inf"):
        print_json({"plans": [{"loss": 1.0}, {"loss": math.inf}]})
    assert capsys.readouterr().out == ""
