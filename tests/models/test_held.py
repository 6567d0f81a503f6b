"""Layers that are in memory already are not read again, and cost nothing twice."""

import weakref
from collections import Counter

import pytest
import torch

from edgewise.models.cache import Segment
from edgewise.models.safetensors_checkpoint import SafetensorsCheckpoint as Checkpoint
from edgewise.models.shard import load_shard
from edgewise.quantization.linear import PackedModule
from tests.conftest import VOCABULARY

TOKENS = torch.randint(VOCABULARY, (11,), generator=torch.Generator().manual_seed(2))


def logits(shard):
    return shard.forward(TOKENS, [Segment(0, 0, len(TOKENS))])


@pytest.fixture
def reads(monkeypatch):
    """How often each tensor of a checkpoint is read."""
    counts, read = Counter(), Checkpoint.read
    monkeypatch.setattr(Checkpoint, "read", lambda self, t: counts.update([t]) or read(self, t))
    return counts


@pytest.mark.parametrize("family", ["llama-wide-heads", "llama-tied"])
@pytest.mark.parametrize("scheme", ["fp32", "q4g32"])
def test_what_is_held_is_taken_as_it_is(checkpoint, reads, family, scheme):
    folder, numbers = checkpoint(family), []
    expected = logits(load_shard(folder, schemes=scheme))
    first = load_shard(folder, 0, 4, scheme)
    second = load_shard(folder, 3, 6, scheme, held=first.layers)
    assert second.layers[0] is first.layers[3]
    reads.clear()
    held = [*first.layers, *second.layers]
    whole = load_shard(folder, schemes=scheme, held=held, on_layer=numbers.append)
    assert numbers == list(range(6)) and whole.layers[:5] == [*first.layers, second.layers[1]]
    assert set(reads) <= {"model.norm.weight"}
    assert torch.equal(logits(whole), expected)


def test_other_schemes_roundings_and_models_are_read(checkpoint, reads):
    folder = checkpoint("llama")
    held = load_shard(folder, 1, 3, "q4g32").layers
    for changed in (
        load_shard(folder, 1, 3, ["q4g32", "q8g32"], held=held),
        load_shard(checkpoint("llama-biases"), 1, 3, "q4g32", held=held),
        load_shard(folder, 1, 3, "q4g32", method="nearest", held=held),
    ):
        assert changed.layers[1] is not held[1]
    assert load_shard(folder, 1, 3, ["q4g32", "q8g32"], held=held).layers[0] is held[0]


def address(matrix):
    return (matrix.codes if isinstance(matrix, PackedModule) else matrix.weight).data_ptr()


@pytest.mark.parametrize("scheme", ["fp32", "q4g32"])
def test_a_tied_matrix_stays_one(checkpoint, scheme):
    folder = checkpoint("llama-tied")
    whole = load_shard(folder, schemes=scheme)
    head = load_shard(folder, 5, 6, scheme)  # with a matrix of its own
    again = load_shard(folder, schemes=scheme, held=[*head.layers, *whole.layers[1:]])
    assert address(again.layers[0].tokens) == address(again.layers[-1].out)
    assert again.weight_bytes == whole.weight_bytes
    # On another stage of the device, too.
    last = load_shard(folder, 5, 6, scheme, held=again.layers)
    assert address(last.layers[0].out) == address(again.layers[0].tokens)
    # In another scheme it is another matrix.
    other = load_shard(folder, schemes=["q8g32", *[scheme] * 5], held=whole.layers)
    assert other.layers[-1] is whole.layers[-1]
    assert torch.equal(logits(again), logits(whole))


def test_the_old_cache_is_not_kept(checkpoint):
    first = load_shard(checkpoint("llama-wide-heads"), schemes="q4g32")
    logits(first)
    cache = weakref.ref(first.cache)
    second = load_shard(
        checkpoint("llama-wide-heads"), schemes="q4g32", held=first.layers, slots=2, context=30
    )
    expected = logits(first)
    del first
    assert cache() is None
    assert torch.equal(logits(second), expected)
