"""A model one block of which is an MLP, against transformers' with torch's modules in its place."""

import json
import math

import pytest
import torch
import transformers

from edgewise.errors import ModelError
from edgewise.memory import layer_bytes
from edgewise.models.cache import Segment
from edgewise.models.checkpoint import open_checkpoint
from edgewise.models.layer_files import layers_from_files
from edgewise.models.layer_store import LayerFiles
from edgewise.models.rewriting import write_checkpoint
from edgewise.models.shape import ModelShape
from edgewise.models.shard import load_shard, random_shard
from edgewise.models.streamed_layers import streamed_layers
from edgewise.quality.plan_loss import plan_losses
from edgewise.quality.sensitivity import measure_sensitivity
from edgewise.quality.statistics import collect_statistics
from edgewise.schemes import CacheType, get_scheme
from edgewise.simulation.rooflines import Roofline
from edgewise.specs import LayerKind, Workload
from tests.conftest import VOCABULARY
from tests.models.mlps import KEPT, PLACE, model_with_mlp, write_with_mlp

LENGTH = 21
TOKENS = torch.randint(VOCABULARY, (LENGTH,), generator=torch.Generator().manual_seed(1))
LAYER = PLACE + 1  # of the MLP
FAMILIES = ["llama-tied", "qwen3", "mistral-window", "opt", "opt-350m", "llama-wide-heads"]


@pytest.fixture
def folder(checkpoint, tmp_path):
    def get(family="llama"):
        made = tmp_path / family
        return made if made.exists() else write_with_mlp(made, checkpoint(family))

    return get


def logits(shard, tokens=TOKENS):
    """The first half at once, then token by token."""
    half = len(tokens) // 2
    parts = [shard.forward(tokens[:half], [Segment(0, 0, half)])]
    for at in range(half, len(tokens)):
        parts.append(shard.forward(tokens[at : at + 1], [Segment(0, at, 1)]))
    return torch.cat(parts)


@pytest.mark.parametrize("family", FAMILIES)
def test_it_computes_what_torchs_modules_do(folder, family):
    with torch.inference_mode():
        truth = model_with_mlp(family)(TOKENS[None], use_cache=False).logits[0]
    found = logits(load_shard(folder(family), schemes="fp32"))
    assert (found - truth).abs().max() < 2e-4


@pytest.mark.parametrize("scheme", ["bf16", "q8g32", "q4g32ad", "q4g32ds", "t6", "stored"])
def test_a_shard_of_each_layer_is_the_whole(folder, scheme):
    model = folder("llama-wide-heads")
    whole = logits(load_shard(model, schemes=scheme))
    shards = [load_shard(model, n, n + 1, scheme) for n in range(len(KEPT) + 2)]
    assert shards[LAYER].cache.bytes == 0 and shards[LAYER - 1].cache.bytes > 0
    half, parts = LENGTH // 2, []
    for start, end in ((0, half), *((at, at + 1) for at in range(half, LENGTH))):
        states = TOKENS[start:end]
        for shard in shards:
            states = shard.forward(states, [Segment(0, start, end - start)])
        parts.append(states)
    assert torch.equal(torch.cat(parts), whole)


@pytest.mark.parametrize("scheme", ["bf16", "q8g32", "q4g32ad"])
def test_company_changes_nothing(folder, scheme):
    model, other = folder("llama-wide-heads"), TOKENS.flip(0)
    alone = logits(load_shard(model, schemes=scheme))
    shard = load_shard(model, schemes=scheme, slots=2)
    half = LENGTH // 2
    both = torch.cat((TOKENS[:half], other[:half]))
    parts = [shard.forward(both, [Segment(0, 0, half), Segment(1, 0, half)])[:half]]
    for at in range(half, LENGTH):
        two = torch.stack((other[at], TOKENS[at]))
        parts.append(shard.forward(two, [Segment(1, at, 1), Segment(0, at, 1)])[1:])
    assert torch.equal(torch.cat(parts), alone)


def test_a_prefix_can_be_copied_where_there_is_no_cache(folder):
    shard = load_shard(folder(), LAYER, LAYER + 1)
    states = torch.randn(3, 32)
    shard.forward(states, [Segment(0, 0, 3)])
    shard.copy_prefix(0, 1, 2)
    assert torch.equal(shard.forward(states[:1], [Segment(1, 2, 1)]),
                       shard.forward(states[:1], [Segment(0, 3, 1)]))  # fmt: skip
    shard.drop(0)


def test_what_it_counts_for(folder):
    spec = open_checkpoint(folder()).spec
    mlp, block = spec.layers[LAYER], spec.layers[LAYER - 1]
    assert (mlp.kind, spec.num_blocks, spec.classes[LAYER]) == (LayerKind.MLP, 3, "mlp")
    hidden = 32
    for scheme, size in (("fp32", 4), ("bf16", 2)):
        held = load_shard(folder("opt"), LAYER, LAYER + 1, scheme).weight_bytes
        assert mlp.weight_bytes(get_scheme(scheme)) == held == size * (8 * hidden**2 + 5 * hidden)
    recipe = get_scheme("4bit")
    packed = load_shard(folder("qwen3"), LAYER, LAYER + 1, "4bit").weight_bytes
    assert mlp.concrete(recipe) == block.concrete(recipe) and mlp.weight_bytes(recipe) == packed
    many = Workload(sequences=7, adapter_bytes=1000)
    assert layer_bytes(spec, LAYER, "fp32", many) == mlp.weight_bytes(get_scheme("fp32"))
    assert mlp.cached_bytes(get_scheme("fp32"), CacheType.INT8) == 0 != block.kv_width


def test_its_seconds_know_no_context(folder, checkpoint):
    spec, reference = open_checkpoint(folder()).spec, open_checkpoint(checkpoint("llama")).spec
    mlp, fp32 = spec.layers[LAYER], get_scheme("fp32")
    counted = Roofline("counted", flops_per_second=1e9, bytes_per_second=1e9)
    near, far = (counted.seconds(spec, mlp, fp32, (1, 1, past)) for past in (0, 1000))
    # What is read: its weights, and states of 32 numbers in and out.
    assert near == far == pytest.approx((mlp.weight_bytes(fp32) + 2 * 32 * 4) / 1e9)
    many = counted.seconds(spec, mlp, fp32, (1, 512, 0))
    assert many == pytest.approx(2 * 8 * 32**2 * 512 / 1e9)
    published = Roofline("published", 1e15, layer_seconds={LayerKind.BLOCK: 1.0})
    share = mlp.weight_bytes(fp32) / reference.layers[1].weight_bytes(fp32)
    assert published.seconds(spec, mlp, fp32, (1, 1, 0), reference) == pytest.approx(share)


def test_it_is_sent_as_a_file_and_read_from_disk(folder, tmp_path):
    opened = open_checkpoint(folder())
    files, shape = LayerFiles(opened, folder=tmp_path / "files"), ModelShape.of(opened)
    assert ModelShape.from_json(shape.to_json()).spec == opened.spec
    for scheme in ("fp32", "4bit"):
        file = files.file(LAYER, scheme)
        (layer,) = layers_from_files(shape, LAYER, [scheme], [file], files.folder)
        loaded = load_shard(opened, LAYER, LAYER + 1, scheme).layers[0].state_dict()
        assert all(torch.equal(x, loaded[name]) for name, x in layer.state_dict().items())
        mine = [files.file(number, scheme) for number in (LAYER, LAYER + 1)]
        schemes = dict.fromkeys((LAYER, LAYER + 1), scheme)
        streamed = streamed_layers(shape, schemes, mine, files.folder, math.inf)
        shard = load_shard(opened, schemes=scheme, streamed=streamed)
        assert torch.equal(logits(shard), logits(load_shard(opened, schemes=scheme)))
        held = {name for name, x in streamed.layers[LAYER].state_dict().items()
                if not streamed.holds(x)}  # fmt: skip
        assert {"fc1.bias", "fc2.bias"} == held
        shard.close()


def test_it_can_be_timed(folder):
    opened = open_checkpoint(folder())
    shard = random_shard(opened.config, LAYER, LAYER + 1, "q4g32ad", device="cpu", slots=1,
                         context=8, spec=opened.spec)  # fmt: skip
    assert shard.forward(torch.randn(2, 32), [Segment(0, 0, 2)]).shape == (2, 32)
    assert shard.weight_bytes == opened.spec.layers[LAYER].weight_bytes(get_scheme("q4g32ad"))


def test_inputs_of_its_matrices_are_looked_at(folder):
    ids = TOKENS[None]
    moments = collect_statistics(str(folder()), ids).of(LAYER)
    assert {name: x.shape for name, x in moments.items()} == {"fc1": (32,), "fc2": (128,)}


def test_what_it_loses_in_few_bits_is_weighed(folder):
    """By gradients that went through it, as much of all as if it alone were in few bits."""
    ids = torch.randint(VOCABULARY, (24, 20), generator=torch.Generator().manual_seed(1))
    losses = measure_sensitivity(str(folder()), ["q8g64"], ids).losses["q8g64"]
    plans = [["q8g64" if n == layer else "fp32" for n in range(5)] for layer in range(5)]
    alone = [loss.mean for loss in plan_losses(str(folder()), plans, ids)]
    shares, expected = ([loss / sum(each) for loss in each] for each in (losses, alone))
    assert shares == pytest.approx(expected, rel=0.5, abs=0.08)


def test_it_goes_elsewhere_and_away(folder, checkpoint, tmp_path):
    """Of a model with an MLP another one is made, in which it is elsewhere, or not at all."""
    opened = open_checkpoint(folder())
    write_checkpoint(opened, [PLACE, 2], {}, tmp_path / "first")
    assert open_checkpoint(tmp_path / "first").config.mlp_blocks == (0,)
    moved = load_shard(tmp_path / "first", 1, 2, "fp32").layers[0].state_dict()
    there = load_shard(opened, LAYER, LAYER + 1, "fp32").layers[0].state_dict()
    assert all(torch.equal(x, moved[name]) for name, x in there.items())
    write_checkpoint(opened, [0, 2], {}, tmp_path / "without")
    write_checkpoint(open_checkpoint(checkpoint("llama")), [0, 3], {}, tmp_path / "direct")
    assert open_checkpoint(tmp_path / "without").config.mlp_blocks == ()
    both = [logits(load_shard(tmp_path / x, schemes="fp32")) for x in ("without", "direct")]
    assert torch.equal(*both)


@pytest.mark.parametrize("wrong", [[3], [-1], ["1"], [True], [1.0], [1, 1]])
def test_places_that_cannot_be(folder, wrong):
    path = folder() / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "mlp_blocks": wrong}))
    with pytest.raises(ModelError, match=r"config\.json: .*mlp_blocks"):
        open_checkpoint(path.parent)


def test_a_missing_tensor_is_named(folder):
    path = folder() / "config.json"
    document = json.loads(path.read_text())
    path.write_text(json.dumps({**document, "mlp_blocks": [0]}))
    with pytest.raises(ModelError, match=r"'model.layers.0.fc1.weight' is missing"):
        load_shard(path.parent)


def test_other_programs_refuse_it(folder):
    with pytest.raises(ValueError, match="edgewise"):
        transformers.AutoModelForCausalLM.from_pretrained(folder())
