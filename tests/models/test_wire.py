"""Hidden states as they cross links: how many bytes, how far off, and each token on its own."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from edgewise.models.cache import Segment
from edgewise.models.checkpoint import open_checkpoint
from edgewise.models.shard import load_shard
from edgewise.models.wire import packed, through, unpacked
from edgewise.schemes import WIRE_GROUP, Wire

NOTHING = torch.zeros(2, 8)


def states_of(tokens, hidden_size, seed=0):
    """Like those of models: a few a thousand times as large as the rest."""
    made = torch.randn(tokens, hidden_size, generator=torch.Generator().manual_seed(seed))
    made[:, ::40] *= 1000
    return made


@settings(max_examples=200, derandomize=True, deadline=None)
@given(st.sampled_from(Wire), st.integers(0, 5), st.integers(1, 100), st.integers(0, 9))
def test_states_take_the_bytes_that_plans_count_and_come_back(wire, tokens, hidden_size, seed):
    states = states_of(tokens, hidden_size, seed)
    sent = packed(states, wire)
    assert sent.nbytes == tokens * wire.row_bytes(hidden_size)
    back = unpacked(sent, wire, hidden_size)
    assert back.dtype == torch.float32 and back.shape == states.shape
    for a, b in zip(states.split(WIRE_GROUP, -1), back.split(WIRE_GROUP, -1), strict=True):
        largest = a.abs().amax(-1, keepdim=True)
        steps = {Wire.FP32: 0 * a, Wire.BF16: a.abs() / 256, Wire.INT8: largest / 127 * 0.51}
        assert ((a - b).abs() <= steps[wire]).all()


@pytest.mark.parametrize("wire", Wire)
def test_a_token_comes_back_the_same_in_any_company(wire):
    states = states_of(6, 48)
    alone = torch.cat([through(row[None], wire) for row in states])
    assert torch.equal(through(states, wire), alone)
    assert torch.equal(through(NOTHING, wire), NOTHING)


def test_what_is_too_short_is_refused():
    with pytest.raises(RuntimeError):
        unpacked(torch.zeros(2, 30, dtype=torch.uint8), Wire.INT8, 48)


@pytest.mark.parametrize("cuts", [(1,), (3,), (1, 2, 5)])
@pytest.mark.parametrize("wire", [Wire.BF16, Wire.INT8])
def test_a_whole_model_rounds_as_its_parts_do(checkpoint, cuts, wire):
    folder = checkpoint("llama")
    whole = load_shard(folder, rounded=dict.fromkeys(cuts, wire))
    ends = [*cuts, open_checkpoint(folder).config.num_layers]
    shards = [load_shard(folder, a, b) for a, b in zip([0, *cuts], ends, strict=True)]
    ids = torch.tensor([5, 9, 3, 30])
    states, segments = ids, [Segment(0, 0, len(ids))]
    for shard in shards:
        states = through(states, wire) if shard.start else states
        states = shard.forward(states, segments)
    rounded = whole.forward(ids, segments)
    assert torch.equal(rounded, states)
    assert not torch.equal(rounded, load_shard(folder).forward(ids, segments))
