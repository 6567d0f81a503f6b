"""What adapters add in the kernels, against torch, and whatever runs beside it."""

import pytest
import torch

from edgewise import kernels
from edgewise.adapters import parts_of
from edgewise.adapters.matrices import columns_of
from edgewise.kernels import Addition
from edgewise.models.cache import Segment
from tests.kernels.test_blocks import SHAPES, expected_of, shard_of

pytestmark = pytest.mark.skipif(not kernels.available(), reason="the kernels were not built")

# Prompts and decoding steps of three sequences, without an adapter, with one, with the other.
STEPS = (
    [Segment(1, 0, 9), Segment(2, 0, 4, 1)],
    [Segment(2, 4, 1, 1), Segment(3, 0, 3, 2), Segment(1, 9, 1)],
    [Segment(3, 3, 1, 2)],
)


def added_to(config, seed, rank):
    """To all parts of a block but one."""
    made = torch.Generator().manual_seed(seed)
    added = {}
    for matrix, parts in parts_of(config).items():
        for name, first, rows in parts:
            if name != "k":
                down = torch.randn(rank, columns_of(config, matrix), generator=made) * 0.1
                up = torch.randn(rank, rows, generator=made) * 0.1
                added.setdefault(matrix, []).append(Addition(first, down, up))
    return added


def holding(shard, config):
    """Two adapters on the first and last of its blocks, one on the middle."""
    for number, rank in ((1, 3), (2, 17)):
        for block in range(3):
            added = {} if (number, block) == (1, 1) else added_to(config, 10 * number + block, rank)
            shard.adapters.hold(number, block, added)
    return shard


@pytest.mark.parametrize("scheme", ["q4g32ad", "bf16", "fp32"])
@pytest.mark.parametrize("shape", SHAPES)
def test_blocks_with_adapters_equal_torch(shape, scheme, isa):
    config = SHAPES[shape]
    shard = holding(shard_of(config, scheme), config)
    plain, exact = shard_of(config, scheme), holding(expected_of(config, shard), config)
    for segments in STEPS:
        states = torch.randn(sum(s.length for s in segments), config.hidden_size)
        ours, right = shard.forward(states, segments), exact.forward(states, segments)
        assert (ours - right).norm() < 0.02 * (right - states).norm()
        without = plain.forward(states, [Segment(s.sequence, s.start, s.length) for s in segments])
        with_one = torch.cat([torch.full((s.length,), s.adapter > 0) for s in segments])
        assert ((ours - without)[with_one].norm(dim=-1) > 0.05).all()
        if not any(s.adapter for s in segments[:1]) and segments is STEPS[0]:
            assert torch.equal(ours[~with_one], without[~with_one])


@pytest.mark.parametrize("scheme", ["q4g32ad", "fp32"])
def test_a_tokens_numbers_do_not_depend_on_its_company(scheme, isa):
    config = SHAPES["llama"]
    together = holding(shard_of(config, scheme), config)
    alone = holding(shard_of(config, scheme), config)
    for segments in STEPS:
        states = torch.randn(sum(s.length for s in segments), config.hidden_size)
        ours = together.forward(states, segments)
        parts = states.split([s.length for s in segments])
        apart = [alone.forward(x, [s]) for x, s in zip(parts, segments, strict=True)]
        assert torch.equal(ours, torch.cat(apart))


def test_torch_adds_the_same(monkeypatch):
    """Where there are no kernels, or a step is longer than they are quick for."""
    config = SHAPES["qwen2"]
    shard, segments = holding(shard_of(config, "fp32"), config), [Segment(1, 0, 9, 2)]
    states = torch.randn(9, config.hidden_size)
    ours = shard.forward(states, segments)
    monkeypatch.setitem(kernels.BACKENDS, "cpu", lambda: None)
    other = holding(shard_of(config, "fp32"), config)
    assert not other.blocks.parts[0].native
    torch.testing.assert_close(other.forward(states, segments), ours, rtol=1e-4, atol=1e-4)


def test_what_is_not_here_is_not_left_out():
    config = SHAPES["llama"]
    shard = shard_of(config, "fp32")
    shard.adapters.hold(1, 0, added_to(config, 1, 2))  # and of the other blocks not
    with pytest.raises(RuntimeError, match="adapter 1 is not here"):
        shard.forward(torch.randn(1, config.hidden_size), [Segment(1, 0, 1, 1)])
    holding(shard, config)
    shard.adapters.forget(2)
    assert shard.adapters.nbytes > 0
    with pytest.raises(RuntimeError, match="adapter 2 is not here"):
        shard.forward(torch.randn(1, config.hidden_size), [Segment(1, 0, 1, 2)])


def test_additions_of_other_sizes_are_refused():
    config = SHAPES["llama"]
    for first, rows, columns in ((0, 129, 64), (-1, 64, 64), (100, 64, 64), (0, 64, 63)):
        shard = shard_of(config, "fp32")
        wrong = Addition(first, torch.randn(2, columns), torch.randn(2, rows))
        for block in range(3):
            shard.adapters.hold(1, block, {"qkv": [wrong]})
        with pytest.raises(ValueError, match="outside a cache or matrix"):
            shard.forward(torch.randn(1, config.hidden_size), [Segment(1, 0, 1, 1)])
