"""Shards against the whole: every cut point, in one pass and token by token."""

from collections import Counter

import pytest
import torch

from edgewise.errors import PlanError, SchemeError
from edgewise.models.cache import Segment
from edgewise.models.checkpoint import open_checkpoint
from edgewise.models.safetensors_checkpoint import SafetensorsCheckpoint as Checkpoint
from edgewise.models.shard import load_shard
from edgewise.quality.streaming import run_layer
from edgewise.schemes import CacheType, get_scheme
from tests.conftest import FAMILIES, VOCABULARY, random_model

LENGTH = 11


def run(shards, tokens):
    """Logits of a prompt of LENGTH - 3 tokens and then three single ones, through all shards."""
    steps = [Segment(0, 0, LENGTH - 3), *[Segment(0, LENGTH - 3 + i, 1) for i in range(3)]]
    logits = []
    for step in steps:
        states = tokens[step.start : step.end]
        for shard in shards:
            states = shard.forward(states, [step])
        logits.append(states)
    return torch.cat(logits)


@pytest.mark.parametrize("family", FAMILIES)
def test_every_cut_equals_the_whole(checkpoint, family):
    folder = checkpoint(family)
    tokens = torch.randint(VOCABULARY, (LENGTH,), generator=torch.Generator().manual_seed(2))
    whole = load_shard(folder)
    expected = run([whole], tokens)
    for cut in range(1, whole.end):
        parts = [load_shard(folder, 0, cut), load_shard(folder, cut)]
        assert torch.equal(run(parts, tokens), expected), f"cut before layer {cut}"


def test_one_layer_per_shard_equals_the_whole(checkpoint):
    folder = checkpoint("qwen3")
    tokens = torch.randint(VOCABULARY, (LENGTH,))
    layers = open_checkpoint(folder).config.num_layers
    parts = [load_shard(folder, i, i + 1) for i in range(layers)]
    assert torch.equal(run(parts, tokens), run([load_shard(folder)], tokens))


@pytest.mark.parametrize("family", ["llama", "llama-tied", "opt-350m"])
def test_an_indexed_checkpoint_loads_each_tensor_once(tmp_path, monkeypatch, family):
    model = random_model(family)
    model.save_pretrained(tmp_path, max_shard_size="20KB")
    assert len(list(tmp_path.glob("*.safetensors"))) > 2
    assert (tmp_path / "model.safetensors.index.json").is_file()
    reads = Counter()
    read = Checkpoint.read
    monkeypatch.setattr(Checkpoint, "read", lambda self, t: reads.update([t]) or read(self, t))
    shard = load_shard(tmp_path)
    stored = set(open_checkpoint(tmp_path).files)
    assert reads == Counter(stored)
    tokens = torch.randint(VOCABULARY, (LENGTH,))
    with torch.no_grad():
        expected = model(tokens[None]).logits[0]
    assert (shard.forward(tokens, [Segment(0, 0, LENGTH)]) - expected).abs().max() < 1e-4


def test_a_shard_opens_only_the_files_of_its_layers(tmp_path):
    random_model("llama").save_pretrained(tmp_path, max_shard_size="20KB")
    files = open_checkpoint(tmp_path).files
    needed = {file for tensor, file in files.items() if ".layers.1." in tensor}
    for file in set(files.values()) - needed:
        (tmp_path / file).unlink()
    assert load_shard(tmp_path, 2, 3).start == 2


def test_a_tied_head_shares_the_embedding_only_within_a_shard(checkpoint):
    folder = checkpoint("llama-tied")
    whole, head = load_shard(folder), load_shard(folder, 5)
    assert whole.layers[-1].out.weight.data_ptr() == whole.layers[0].tokens.weight.data_ptr()
    assert torch.equal(head.layers[-1].out.weight, whole.layers[-1].out.weight)


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("scheme", ["fp32", "bf16", "q4g64", "q3g32a", "t8"])
def test_bytes_equal_the_specification(checkpoint, family, scheme):
    config = open_checkpoint(checkpoint(family)).config
    spec = config.spec(family)
    for number, layer in enumerate(spec.layers):
        shard = load_shard(checkpoint(family), number, number + 1, scheme)
        assert shard.weight_bytes == layer.weight_bytes(get_scheme(scheme))
    for cache in CacheType:
        block = load_shard(checkpoint(family), 1, 2, scheme, slots=3, context=10, cache=cache)
        assert block.cache.bytes == 30 * spec.layers[1].cached_bytes(get_scheme(scheme), cache)


@pytest.mark.parametrize("family", FAMILIES)
def test_a_cache_in_8_bits_changes_what_it_must(checkpoint, family):
    """As the model whose keys and values are rounded without a cache (quality/streaming.py)."""
    folder, tokens = checkpoint(family), torch.randint(VOCABULARY, (LENGTH,))
    config, shard = open_checkpoint(folder).config, load_shard(folder, cache=CacheType.INT8)
    states = tokens[None]
    for number, layer in enumerate(shard.layers):
        states = run_layer(config, number, layer, states, CacheType.INT8)
    whole = shard.forward(tokens, [Segment(0, 0, LENGTH)])
    shard.drop(0)
    steps = [shard.forward(tokens[i : i + 1], [Segment(0, i, 1)]) for i in range(LENGTH)]
    plain = load_shard(folder).forward(tokens, [Segment(0, 0, LENGTH)])
    far = (whole - plain).abs().max()
    # A last digit may tip a code over to its neighbour: less than all the rounding, not nothing.
    assert 0 < far < 0.1
    assert (whole - states[0]).abs().max() < 0.5 * far
    assert (torch.cat(steps) - states[0]).abs().max() < 0.5 * far


def test_ranges_and_schemes_are_checked(checkpoint):
    folder = checkpoint("llama")
    with pytest.raises(PlanError, match=r"layers \[3, 9\) are not within \[0, 6\)"):
        load_shard(folder, 3, 9)
    with pytest.raises(PlanError, match="1 schemes for 2 layers"):
        load_shard(folder, 0, 2, ["fp32"])
    with pytest.raises(SchemeError, match="unknown scheme 'q17'"):
        load_shard(folder, 0, 2, "q17")


def test_the_cache_refuses_what_it_has_no_room_for(checkpoint):
    shard = load_shard(checkpoint("llama"), slots=1, context=8)
    tokens = torch.arange(9)
    with pytest.raises(RuntimeError, match="beyond 8 cached tokens"):
        shard.forward(tokens, [Segment(0, 0, 9)])
    shard.forward(tokens[:4], [Segment(0, 0, 4)])
    with pytest.raises(RuntimeError, match="all 1 cache slots are taken"):
        shard.forward(tokens[:4], [Segment(1, 0, 4)])
