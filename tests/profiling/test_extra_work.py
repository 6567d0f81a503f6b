"""Layers timed with what adapters have them do: it is what they do in service, and named for it."""

import pytest
import torch

from edgewise.adapters import AdapterConfig, Kind, LowRank
from edgewise.adapters.served import open_adapter
from edgewise.clusters import Cluster, Device
from edgewise.costs import CostModel
from edgewise.models.cache import Segment
from edgewise.models.checkpoint import open_checkpoint
from edgewise.models.shard import random_shard
from edgewise.opening.adapters import with_room
from edgewise.plans import Plan, Stage
from edgewise.profiling import Grid, measure
from edgewise.runtime.local import start_local
from edgewise.runtime.worker.extra_work import ADAPTER, add_work
from edgewise.specs import AddedPart, ExtraWork, LayerKind, PrivateParts, Vote, Workload
from tests.adapters.windows import write_windows

QKV = PrivateParts(4, (("q", "k", "v"),))
ADDED = (AddedPart("qkv", 0, 8, 32, 2), AddedPart("down", 0, 32, 56, 3))
VOTES = Workload(20, 20, extra=ExtraWork(ends=(1, 2), added=ADDED))
ASKS = Workload(20, 20, extra=ExtraWork(private=QKV))


@pytest.fixture
def shard(checkpoint):
    """The last block and the head, of random weights."""

    def make(start=4, end=6):
        config = open_checkpoint(str(checkpoint("llama"))).config
        return random_shard(config, start, end, "fp32", device="cpu", slots=4, context=32)

    return make


def test_exits_vote_on_what_came_out_of_all_windows(shard):
    made = shard()
    add_work(made, ExtraWork(ends=(1, 2)))
    segments = [Segment(number, 0, 1, ADAPTER) for number in range(2)]
    assert made.rows_in(segments, [0, 1]) == [3, 3]  # its own, and of two windows before
    states = torch.randn(6, made.config.hidden_size)
    said = made.forward(states, segments, [0, 1])
    assert said.shape == (2, made.config.vocab_size)
    torch.testing.assert_close(said.exp().sum(-1), torch.ones(2))  # what votes agree on


def test_blocks_multiply_by_what_is_drawn_and_add_what_comes_back(shard):
    """With M = 1, which is what whoever answers at once makes of it."""
    made = shard(4, 5)
    (block,) = made.layers
    inputs = torch.randn(3, made.config.hidden_size)
    plain = block.qkv(inputs)
    add_work(made, ExtraWork(private=QKV))
    adapter = AdapterConfig(Kind.PRIVATE, QKV.rank, matrices=QKV.matrices[0])
    config = made.config
    heads = config.num_heads, config.num_kv_heads, config.num_kv_heads
    rows, columns = [count * config.head_dim for count in heads], config.hidden_size
    lows = [LowRank(adapter, f"3.{x}", r, columns) for x, r in zip("qkv", rows, strict=True)]
    added = torch.cat([inputs @ low.down.T @ low.up.T for low in lows], dim=-1)
    torch.testing.assert_close(block.qkv(inputs), plain + added)


def test_blocks_have_a_branch_beside_each_sequence_with_what_is_added(shard):
    made, alone = shard(3, 5), shard(3, 5)
    alone.layers, alone.blocks._blocks = made.layers, made.blocks._blocks  # the same weights
    add_work(made, ExtraWork(ends=(1,), added=ADDED))
    segments = [Segment(number, 0, 2, ADAPTER) for number in range(2)]
    assert made.rows_in(segments, []) == [4, 4]
    states = torch.randn(8, made.config.hidden_size)
    (own, branch), (_, other) = (x.split(2) for x in made.forward(states, segments, []).split(4))
    plain = alone.forward(states[:2], [Segment(0, 0, 2)])
    torch.testing.assert_close(own, plain)
    assert not torch.allclose(branch, alone.forward(states[2:4], [Segment(1, 0, 2)]), atol=1e-4)
    assert not torch.allclose(branch, other)


def test_a_step_goes_through_blocks_window_by_window(shard, monkeypatch):
    made, stretches = shard(1, 5), []
    add_work(made, ExtraWork(ends=(1, 3), added=ADDED))
    run = made.blocks.run

    def note(states, segments, first, end):
        stretches.append((first, end, len(segments)))
        return run(states, segments, first, end)

    monkeypatch.setattr(made.blocks, "run", note)
    made.forward(torch.randn(1, made.config.hidden_size), [Segment(0, 0, 1, ADAPTER)], [0])
    assert stretches == [(0, 1, 2), (1, 3, 2), (3, 4, 2)]


def test_what_an_adapter_of_windows_has_layers_do(checkpoint, tmp_path):
    opened = open_checkpoint(str(checkpoint("llama")))
    write_windows(tmp_path, opened.model, window=2)
    what = opened.config, opened.spec.digest
    voting, last = (open_adapter(tmp_path, *what, vote) for vote in (Vote.AVERAGE, Vote.LAST))
    work = with_room(Workload(), [voting, last]).extra
    assert work.exits == 2 and work.branches
    parts = {x.matrix for x in work.added}
    assert parts == set(voting.branch[0]) and all(x.rank > 0 for x in work.added)
    assert not last.work.branches and last.work.exits == 1
    assert with_room(Workload(), []).extra == ExtraWork()


@pytest.mark.parametrize("work", [VOTES, ASKS], ids=["votes", "private"])
def test_a_profile_names_what_was_timed_and_prices_a_plan(checkpoint, work):
    model = str(checkpoint("llama"))
    spec, cluster = open_checkpoint(model).spec, Cluster((Device("a", 10**9),), (), "a")
    with start_local(cluster) as workers:
        profile = measure(workers, model, spec, ["fp32"], Grid.around(work))
    head, block = (work.extra.timed(kind, kind) for kind in (LayerKind.HEAD, LayerKind.BLOCK))
    assert profile.classes == ("embedding", block, head)
    stage = Stage("a", 0, spec.num_layers, ("fp32",) * spec.num_layers)
    plan = Plan(spec.name, spec.digest, spec.num_layers, (stage,))
    assert CostModel(spec, cluster, profile, work).estimate(plan).decode_seconds > 0
