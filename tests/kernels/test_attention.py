"""Attention over more positions than are looked at at a time, alone, in chunks and among others."""

import dataclasses

import pytest
import torch

from edgewise import kernels
from edgewise.models.cache import Segment
from edgewise.schemes import CacheType
from tests.kernels.test_blocks import LLAMA, by_torch, expected_of, shard_of

pytestmark = pytest.mark.skipif(not kernels.available(), reason="the kernels were not built")

LENGTH = 150  # positions: a few spans of 16, 32 or 64, the last one not full
HEADS = {
    "grouped": {},
    "three to a key": {"num_heads": 6},
    "one to a key": {"num_kv_heads": 4},
    "more than a block": {"num_heads": 26, "num_kv_heads": 1},
    "wide": {"head_dim": 80},
    "windows": {"windows": (70, None, 5)},
}


def config_of(heads):
    return dataclasses.replace(LLAMA, max_context=256, **HEADS[heads])


@pytest.mark.parametrize("heads", HEADS)
def test_long_prompts_equal_torch(isa, heads):
    config = config_of(heads)
    shard = shard_of(config, "fp32", context=256)
    exact, states = expected_of(config, shard, context=256), torch.randn(LENGTH, config.hidden_size)
    for start, end in ((0, 64), (64, 101), (101, LENGTH)):
        step = [Segment(1, start, end - start)]
        mine, expected = (x.forward(states[start:end], step) for x in (shard, exact))
        assert (mine - expected).norm() / (expected - states[start:end]).norm() < 1e-5


@pytest.mark.parametrize("cache", CacheType)
@pytest.mark.parametrize("scheme", ["fp32", "bf16", "fp16"])
@pytest.mark.parametrize("heads", HEADS)
def test_a_position_is_bitwise_the_same_alone_in_chunks_and_beside_others(
    isa, heads, scheme, cache
):
    config = config_of(heads)
    torch.manual_seed(3)
    states = torch.randn(LENGTH, config.hidden_size)
    whole = shard_of(config, scheme, cache, context=256)
    # In steps that all go through the kernels: at most 16 tokens in bf16, 64 in fp32.
    together = torch.cat(
        [whole.forward(states[at : at + 16], [Segment(1, at, len(states[at : at + 16]))])
         for at in range(0, LENGTH, 16)]
    )  # fmt: skip
    chunked = shard_of(config, scheme, cache, context=256)
    pieces, at, beside = [], 0, 0
    for length in (1, 2, 7, 13, 1, 1, 16, 3) * 4:
        if at < LENGTH:
            part, step = states[at : at + length], [Segment(1, at, len(states[at : at + length]))]
            if length <= 8:  # beside another sequence, which has fewer tokens behind it
                step.append(Segment(2, beside, len(part)))
                beside += len(part)
            pieces.append(chunked.forward(torch.cat([part] * len(step)), step)[: len(part)])
            at += len(part)
    assert torch.equal(torch.cat(pieces), together)


@pytest.mark.parametrize("heads", ["grouped", "windows"])
def test_a_long_cache_in_8_bits_is_read_as_torch_reads_it(isa, heads):
    config = config_of(heads)
    mine, theirs = (shard_of(config, "fp32", CacheType.INT8, context=256) for _ in range(2))
    by_torch(theirs)
    states = torch.randn(LENGTH, config.hidden_size)
    for start, end in ((0, 64), (64, 128), (128, LENGTH)):
        step = [Segment(1, start, end - start)]
        outputs, expected = (x.forward(states[start:end], step) for x in (mine, theirs))
        assert (outputs - expected).norm() / (expected - states[start:end]).norm() < 3e-3
