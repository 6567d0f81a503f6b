"""Adapters of windows in a shard: their exits say what tuning's own forward pass says, which runs
every window from plain states on, without a cache."""

import pytest
import torch

from edgewise.adapters.served import open_adapter
from edgewise.errors import NonFinite
from edgewise.models.branches import branch_adapter
from edgewise.models.cache import Segment
from edgewise.models.checkpoint import open_checkpoint
from edgewise.models.exits import HeldExits
from edgewise.models.shard import load_shard
from edgewise.models.votes import VOTES
from edgewise.specs import Vote
from edgewise.tuning.judging import exit_logits
from edgewise.tuning.lessons import Lesson, batch_of
from tests.adapters.windows import write_windows

TOKENS = (5, 9, 33, 21, 60, 7, 2, 90, 41, 13)


def hold(shard, number, adapter):
    """As a worker does (runtime/worker/holding.py)."""
    first = max(shard.start - 1, 0)
    for each, blocks in ((number, adapter.blocks), (branch_adapter(number), adapter.branch)):
        for block, added in enumerate(blocks):
            if shard.start <= block + 1 < shard.end:
                shard.adapters.hold(each, block - first, added)
    shard.adapters.exits[number] = HeldExits(adapter.exits.ends, adapter.exits.vote)
    for index, exit in enumerate(adapter.exits.matrices):
        shard.adapters.exits[number].hold(index, exit, shard.device)


@pytest.fixture
def made(checkpoint, tmp_path):
    def make(family, vote=Vote.CONFIDENCE, ends=(6,), **options):
        opened = open_checkpoint(str(checkpoint(family)))
        tunable = write_windows(tmp_path, opened.model, **options)
        adapter = open_adapter(tmp_path, opened.config, opened.spec.digest, vote)
        starts = [0, *ends[:-1]]
        shards = [load_shard(opened, a, b, slots=6) for a, b in zip(starts, ends, strict=True)]
        for shard in shards:
            hold(shard, 1, adapter)
        return tunable, shards

    return make


def run(shards, tokens, segments, rows=None):
    states = torch.tensor(tokens)
    for shard in shards:
        states = shard.forward(states, segments, rows)
    return states


def truth_of(tunable, vote):
    batch = batch_of([Lesson((*TOKENS, 0), 1)])
    return VOTES[vote](exit_logits(tunable, batch))


@pytest.mark.parametrize("vote", Vote)
@pytest.mark.parametrize("family", ["llama", "llama-wide-heads", "qwen3", "opt", "mistral-window"])
@pytest.mark.parametrize("window", [1, 2, 3])
def test_a_vote_is_the_one_that_was_judged(made, family, vote, window):
    tunable, (shard,) = made(family, vote, window=window)
    truth = truth_of(tunable, vote)
    whole = run([shard], TOKENS, [Segment(7, 0, 10, 1)])
    torch.testing.assert_close(whole, truth, rtol=1e-4, atol=1e-4)
    plain = load_shard(tunable_model(shard)).forward(torch.tensor(TOKENS), [Segment(0, 0, 10)])
    assert (whole - plain.log_softmax(-1)).abs().max() > 0.1
    pieces = [run([shard], TOKENS[:4], [Segment(8, 0, 4, 1)])]
    for at in range(4, 10):  # beside a plain sequence, whose tokens they do not touch
        segments = [Segment(9, at - 4, 1), Segment(8, at, 1, 1)]
        both = run([shard], (TOKENS[at - 4], TOKENS[at]), segments)
        torch.testing.assert_close(both[0], plain[at - 4], rtol=1e-4, atol=1e-4)
        pieces.append(both[1:])
    torch.testing.assert_close(torch.cat(pieces), truth, rtol=1e-4, atol=1e-4)


def tunable_model(shard):
    return shard.layers[0].origin.model


@pytest.mark.parametrize("ends", [(1, 6), (2, 6), (3, 6), (4, 6), (5, 6), (1, 2, 3, 4, 5, 6)])
@pytest.mark.parametrize("window", [1, 2, 3])
def test_cut_anywhere_it_is_the_same(made, ends, window):
    tunable, shards = made("llama", ends=ends, window=window)
    truth, segments = truth_of(tunable, Vote.CONFIDENCE), [Segment(3, 0, 10), Segment(7, 0, 10, 1)]
    said = run(shards, TOKENS * 2, segments, [12, 15, 19])
    torch.testing.assert_close(said, truth[[2, 5, 9]], rtol=1e-4, atol=1e-4)


def test_nothing_asked_nothing_said_and_prefixes_are_copied(made):
    tunable, shards = made("llama", ends=(2, 4, 6))
    assert len(run(shards, TOKENS[:6], [Segment(7, 0, 6, 1)], [])) == 0
    for shard in shards:
        shard.copy_prefix(7, 8, 5)
        shard.drop(7)
    said = run(shards, TOKENS[5:], [Segment(8, 5, 5, 1)], [4])
    truth = truth_of(tunable, Vote.CONFIDENCE)
    torch.testing.assert_close(said, truth[[9]], rtol=1e-4, atol=1e-4)
    for shard in shards:
        shard.drop(8)
        assert not any(shard.cache.has(x) for x in (7, 8, ~7, ~8))


def test_numbers_that_are_none_are_their_sequences(made):
    _, shards = made("llama", ends=(3, 6))
    segments = [Segment(3, 0, 10), Segment(7, 0, 10, 1)]
    states = shards[0].forward(torch.tensor(TOKENS * 2), segments, [19]).clone()
    assert [len(part) for part in states.split(shards[1].rows_in(segments, [19]))] == [10, 11]
    states[-1] = torch.nan  # what came out of the first window
    with pytest.raises(NonFinite) as error:
        shards[1].forward(states, segments, [19])
    assert error.value.sequences == (7,)


def test_an_adapter_is_forgotten_with_its_exits(made):
    _, (shard,) = made("llama")
    shard.adapters.forget(1)
    assert shard.adapters.ends(1) == () and shard.adapters.nbytes == 0
    with pytest.raises(RuntimeError, match="adapter 1 is not here"):
        run([shard], TOKENS, [Segment(7, 0, 10, 1)])
