"""A sequence's numbers are its own: whatever runs beside it, even where that is broken."""

import math
from itertools import pairwise

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from edgewise import kernels
from edgewise.errors import NonFinite
from edgewise.models.cache import Segment
from edgewise.models.company import in_groups
from tests.models.shapes import CONFIG, LAYERS, shard_of

SCHEMES = (
    "q4g32", "bf16", "fp32", "fp16",
    ("q8g32", "bf16", "fp32", "q4g32ad", "fp16"),
    ("fp32", "q4g32", "bf16", "fp16", "fp32"),
    ("bf16", "fp32", "t8", "q4g32", "bf16"),
    "q4g32ds",
)  # fmt: skip
BITWISE = pytest.mark.skipif(not kernels.available(), reason="torch promises no last bits")
CHUNK = 256
LENGTHS = st.one_of(st.just(1), st.integers(1, 20), st.integers(60, 130))
PARTS = st.lists(st.tuples(st.integers(0, 30), LENGTHS), min_size=2, max_size=6)


@given(st.lists(st.integers(1, 40), min_size=1, max_size=12), st.integers(0, 40))
def test_groups_hold_each_token_once(lengths, most):
    segments = [Segment(number, 0, length) for number, length in enumerate(lengths)]
    groups = in_groups(segments, most)
    tokens = [token for group in groups for token in group.tokens]
    assert sorted(tokens) == list(range(sum(lengths)))
    ends = torch.tensor(lengths).cumsum(0).tolist()
    for group in groups:
        own = [
            t for s in group.segments for t in range(ends[s.sequence] - s.length, ends[s.sequence])
        ]
        assert group.tokens == own
        assert len(group.segments) == 1 or not most or len(group.tokens) <= most
    assert len(groups) == 1 or sum(lengths) > most > 0


def inputs_of(shard, count, seed):
    made = torch.Generator().manual_seed(seed)
    if shard.start == 0:
        return torch.randint(CONFIG.vocab_size, (count,), generator=made)
    return torch.randn(count, CONFIG.hidden_size, generator=made)


def run_past(shard, parts):
    for number, (past, _) in enumerate(parts):
        if past:
            shard.forward(inputs_of(shard, past, number), [Segment(number, 0, past)], [past - 1])


def in_company(shard, parts, last_only):
    """Every sequence's outputs of one step of all of them."""
    run_past(shard, parts)
    lengths = [length for _, length in parts]
    inputs = torch.cat([inputs_of(shard, x, 100 + n) for n, x in enumerate(lengths)])
    segments = [Segment(n, *part) for n, part in enumerate(parts)]
    rows = (torch.tensor(lengths).cumsum(0) - 1).tolist()[::-1] if last_only else None
    outputs = shard.forward(inputs, segments, rows)
    if last_only and shard.end == LAYERS:
        return list(outputs.flip(0).split(1))
    return list(outputs.split(lengths))


def alone(shard, parts, last_only):
    run_past(shard, parts)
    return [
        shard.forward(
            inputs_of(shard, length, 100 + number),
            [Segment(number, past, length)],
            [length - 1] if last_only else None,
        )
        for number, (past, length) in enumerate(parts)
    ]


@pytest.mark.parametrize("layers", [(0, LAYERS), (1, 4), (4, LAYERS)])
@pytest.mark.parametrize("schemes", SCHEMES)
@settings(max_examples=8, deadline=None)
@given(parts=PARTS, last_only=st.booleans())
def test_company_changes_nothing(schemes, layers, parts, last_only):
    mine, other = shard_of(schemes, *layers), shard_of(schemes, *layers)
    together, single = in_company(mine, parts, last_only), alone(other, parts, last_only)
    for actual, expected in zip(together, single, strict=True):
        if kernels.available() and "t8" not in schemes:
            assert torch.equal(actual, expected)
        else:  # the last bits only, but of bf16, and at times they tip over others
            assert (actual - expected).norm() <= 0.02 * expected.norm()


@BITWISE
@pytest.mark.parametrize("schemes", SCHEMES[:6])
def test_tokens_come_again_as_they_came(schemes):
    """A request whose cache is lost: its prompt as before, what was sampled in pieces."""
    prompt, answer = 300, 37
    ids = inputs_of(shard_of(schemes, 0, 1), prompt + answer, 1)
    first, second = shard_of(schemes), shard_of(schemes)
    outputs = []
    for shard, piece in ((first, 1), (second, 16)):
        starts = [0, CHUNK, *range(prompt, prompt + answer, piece), prompt + answer]
        cuts = [Segment(5, a, b - a) for a, b in pairwise(starts)]
        steps = [shard.forward(ids[x.start : x.end], [x]) for x in cuts]
        outputs.append(torch.cat(steps)[prompt:])
    assert torch.equal(*outputs)
    for block in range(CONFIG.num_blocks):
        mine, theirs = (
            x.cache.stored(block).codes[:, x.cache.slot(5), :, : prompt + answer]
            for x in (first, second)
        )
        assert torch.equal(mine, theirs)


def poison_states(shard, inputs):
    inputs[1][0, 3] = math.nan


def poison_cache(shard, inputs):
    shard.cache.stored(2).codes[1, shard.cache.slot(1), :, :20] = math.nan


BROKEN = [(poison_states, schemes) for schemes in SCHEMES]
# Kernels of packed matrices make integers of what attention gives, whatever it is.
BROKEN += [(poison_cache, schemes) for schemes in ("bf16", "fp32", "fp16")]


@pytest.mark.parametrize("length", [1, 100])
@pytest.mark.parametrize(("poison", "schemes"), BROKEN)
def test_a_broken_sequence_breaks_no_other(poison, schemes, length):
    parts, others = [(20, 1), (20, length), (20, 1), (7, 3)], (0, 2, 3)
    expected = in_company(shard_of(schemes, 1), parts, True)
    shard = shard_of(schemes, 1)
    run_past(shard, parts)
    segments = [Segment(n, *part) for n, part in enumerate(parts)]
    inputs = [inputs_of(shard, x, 100 + n) for n, (_, x) in enumerate(parts)]
    poison(shard, inputs)
    with pytest.raises(NonFinite, match="layers 1-4 computed") as caught:
        shard.forward(torch.cat(inputs), segments)
    assert caught.value.sequences == (1,)
    shard.drop(1)
    states = torch.cat([inputs[n] for n in others])
    outputs = shard.forward(states, [segments[n] for n in others], [0, 1, 4])
    for row, number in zip(outputs, others, strict=True):
        assert (row - expected[number][0]).norm() <= 0.02 * row.norm()
        if kernels.available() and "t8" not in schemes:
            assert torch.equal(row, expected[number][0])
    # The slot is as good as new for the next one.
    again, fresh = (
        x.forward(inputs_of(shard, 20, 0), [Segment(9, 0, 20)], [19])
        for x in (shard, shard_of(schemes, 1))
    )
    assert torch.equal(again, fresh)
