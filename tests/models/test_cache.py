"""The cache's memory follows its tokens, and sequences begin with those of others."""

import sys

import psutil
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from edgewise import kernels
from edgewise.models.cache import KVCache, Segment
from edgewise.models.checkpoint import open_checkpoint
from edgewise.models.shard import load_shard
from edgewise.schemes import CacheType, get_scheme
from tests.models.shapes import CONFIG, shard_of

CPU = torch.device("cpu")
MB = 2**20


def taken():
    return psutil.Process().memory_full_info().uss


def fill(cache, sequence, end, piece=256):
    """In pieces, so that little else is allocated."""
    for start in range(0, end, piece):
        for number in range(2):
            k, v = torch.randn(2, min(piece, end - start), 2, 64)
            cache.stored(number).write(cache.slot(sequence), start, k, v)


@pytest.mark.skipif(sys.platform != "linux", reason="others give memory back when they like")
@pytest.mark.parametrize("kind", CacheType)
def test_memory_is_taken_for_tokens_that_are_there(kind):
    before = taken()
    cache = KVCache((2, 64), [torch.float32] * 2, 8, 2**16, CPU, kind)
    whole, tokens = cache.bytes, 2**13
    assert whole > 200 * MB and taken() - before < 2 * MB
    fill(cache, 3, tokens)
    used = whole / (8 * 2**16) * tokens
    assert abs(taken() - before - used) < 3 * MB
    fill(cache, 4, tokens)
    assert abs(taken() - before - 2 * used) < 3 * MB
    cache.drop(3)
    assert abs(taken() - before - used) < 3 * MB
    cache.drop(4)
    assert taken() - before < 3 * MB


@settings(max_examples=30, deadline=None)
@given(st.sampled_from(CacheType), st.integers(1, 700), st.integers(2, 5), st.data())
def test_a_drop_harms_no_neighbour(kind, context, slots, data):
    """Slots end within pages."""
    cache = KVCache((2, 64), [torch.bfloat16, torch.float32], slots, context, CPU, kind)
    for sequence in range(slots):
        fill(cache, sequence, context)
    gone = data.draw(st.integers(0, slots - 1))
    rest = [cache.slot(sequence) for sequence in range(slots) if sequence != gone]
    kept = [t[:, rest].clone() for n in range(2) for t in cache.stored(n).tensors()]
    cache.drop(gone)
    fill(cache, slots, context)
    cache.drop(slots)
    now = [t[:, rest] for n in range(2) for t in cache.stored(n).tensors()]
    assert all(torch.equal(a, b) for a, b in zip(kept, now, strict=True))


def test_a_budget_is_what_the_cache_takes(checkpoint):
    folder = checkpoint("llama")
    each = open_checkpoint(folder).spec.layers[1].cached_bytes(get_scheme("bf16"), CacheType.FULL)
    cache = load_shard(folder, 1, 3, "bf16", slots=3, context=10, tokens=12).cache
    assert cache.bytes == 2 * 12 * each


PROMPT, CHUNK = 600, 256


def prefill(shard, sequence, ids, start=0):
    """The logits of the last token; chunks end at multiples of CHUNK."""
    while start < len(ids):
        end = min(start // CHUNK * CHUNK + CHUNK, len(ids))
        step = Segment(sequence, start, end - start)
        logits = shard.forward(ids[start:end], [step], [end - start - 1])
        start = end
    return logits


@pytest.mark.skipif(not kernels.available(), reason="torch promises no last bits")
@pytest.mark.parametrize("kind", CacheType)
@pytest.mark.parametrize(
    ("scheme", "cuts"),
    [
        ("q4g32ad", (16, 240, 256, 272, 592)), ("fp16", (16, 240, 256, 272, 592)),
        # Beyond `most_tokens` torch computes a chunk, which is only the same in one piece.
        ("bf16", (256, 512)), ("fp32", (256, 512)),
    ],
)  # fmt: skip
def test_a_copied_prefix_is_as_good_as_a_computed_one(scheme, cuts, kind):
    ids = torch.randint(CONFIG.vocab_size, (PROMPT,), generator=torch.Generator().manual_seed(1))
    shard, plain = shard_of(scheme, cache=kind), shard_of(scheme, cache=kind)
    expected = prefill(plain, 1, ids)
    source = torch.cat((ids[:-4], ids[:4]))  # goes on in another way
    prefill(shard, 1, source)
    for sequence, cut in enumerate(cuts, start=2):
        shard.copy_prefix(1, sequence, cut)
        assert torch.equal(prefill(shard, sequence, ids, cut), expected), cut
    other = shard_of(scheme, cache=kind)
    prefill(other, 1, source)
    step = [Segment(1, PROMPT, 1)]
    assert torch.equal(shard.forward(ids[:1], step), other.forward(ids[:1], step))


def test_what_is_not_there_cannot_be_copied():
    shard = shard_of("fp32", slots=2, context=20)
    with pytest.raises(RuntimeError, match="nothing is cached of sequence 1"):
        shard.copy_prefix(1, 2, 4)
    shard.forward(torch.arange(8), [Segment(1, 0, 8)])
    with pytest.raises(RuntimeError, match="position 21 is beyond 20 cached tokens"):
        shard.copy_prefix(1, 2, 21)
    shard.copy_prefix(1, 2, 8)
    with pytest.raises(RuntimeError, match="all 2 cache slots are taken"):
        shard.copy_prefix(1, 3, 8)


def test_an_embedding_alone_has_nothing_to_copy():
    shard = shard_of("fp32", 0, 1)
    shard.forward(torch.arange(8), [Segment(1, 0, 8)])
    shard.copy_prefix(1, 2, 8)
    assert shard.forward(torch.arange(2), [Segment(2, 8, 2)]).shape == (2, CONFIG.hidden_size)
