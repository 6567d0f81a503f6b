"""The link between blocks and M, over real sockets, where one side does what it should not."""

import time
from types import SimpleNamespace

import pytest
import torch

from edgewise.adapters import Kind
from edgewise.adapters.private import private_adapter
from edgewise.clusters import Device
from edgewise.errors import DeviceError, DeviceTimeout
from edgewise.models.cache import Segment
from edgewise.models.checkpoint import open_checkpoint
from edgewise.models.shard import load_shard
from edgewise.runtime import messages
from edgewise.runtime.adapter_messages import Residual
from edgewise.runtime.transport.zeromq import ZeroMQ
from edgewise.runtime.worker import inbox as inboxes
from edgewise.runtime.worker import private
from edgewise.runtime.worker.inbox import Inbox
from edgewise.runtime.worker.private import PrivateSplit
from edgewise.specs import Workload
from tests.adapters.made import write_adapter

SOURCE, BLOCKS, RANK = "source", "blocks", 4
TOKENS = [Segment(0, 0, 3)]
STATES = torch.randn(3, 32, generator=torch.Generator().manual_seed(0))


@pytest.fixture
def sides(checkpoint, tmp_path):
    """Both transports, what the blocks' worker keeps and handles at once, its shard, and what the
    source is."""
    opened = open_checkpoint(str(checkpoint("llama")))
    options = {"kind": Kind.PRIVATE, "rank": RANK, "matrices": ("q", "k", "v")}
    write_adapter(tmp_path / "adapter", opened.model, **options)
    told = private_adapter(tmp_path / "adapter", opened, SOURCE)
    source, blocks = (ZeroMQ(x, f"ipc://{tmp_path / x}") for x in (SOURCE, BLOCKS))
    source.introduce({BLOCKS: blocks.peer})
    blocks.introduce({SOURCE: source.peer})
    load = messages.Load(7, opened.model, (), None, Workload(), private=told)
    shard = load_shard(opened, 1, 3, "fp32", context=16)
    device, introduced = Device(BLOCKS, 10**9), []
    inbox = Inbox(device, blocks, introduced.append)
    PrivateSplit(device, blocks, inbox).attach(load, shard)
    here = Device(SOURCE, 10**9)
    answering = PrivateSplit(here, source, Inbox(here, source, lambda x: None))
    answering.attach(load, load_shard(opened, 0, 1, "fp32", context=16))
    yield SimpleNamespace(source=source, blocks=blocks, kept=inbox.kept, introduced=introduced,
                          shard=shard, answering=answering)  # fmt: skip
    source.close()
    blocks.close()


def test_a_source_that_is_silent_is_lost_in_time(sides, monkeypatch):
    monkeypatch.setattr(private, "ANSWER_SECONDS", 0.3)
    began = time.monotonic()
    with pytest.raises(DeviceTimeout, match="'source' did not answer within"):
        sides.shard.forward(STATES, TOKENS)
    assert 0.3 <= time.monotonic() - began < 10


def test_another_plan_ends_the_wait_and_comes_first(sides):
    step, load = messages.Step(7, 1, 1, ()), messages.Load(8, "", (), None, Workload())
    for message in (step, messages.Peers({}), load):
        sides.source.send(BLOCKS, message)
    with pytest.raises(DeviceError, match="before something else"):
        sides.shard.forward(STATES, TOKENS)
    assert [envelope.message for envelope in sides.kept] == [load, step]
    assert [envelope.message for envelope in sides.introduced] == [messages.Peers({})]


def test_no_more_is_kept_than_some_messages(sides, monkeypatch):
    monkeypatch.setattr(inboxes, "MOST_KEPT", 3)
    for _ in range(4):
        sides.source.send(BLOCKS, messages.Ping())
    with pytest.raises(DeviceError, match="sent 3 messages during one step"):
        sides.shard.forward(STATES, TOKENS)
    assert len(sides.kept) == 3


@pytest.mark.parametrize("tensor", [None, torch.zeros(3, 5), torch.zeros(3, 12).long()])
def test_answers_of_another_shape_are_refused(sides, tensor):
    # What a step that was given up has left does not count.
    sides.source.send(BLOCKS, Residual(6, 1, 0, "qkv"), torch.ones(3, 12))
    sides.source.send(BLOCKS, Residual(7, 1, 0, "qkv"), tensor)
    with pytest.raises(DeviceError, match="something else than what was asked"):
        sides.shard.forward(STATES, TOKENS)


@pytest.mark.parametrize(
    ("block", "matrix", "low"),
    [
        (4, "qkv", torch.zeros(1, 12)),
        (-1, "qkv", torch.zeros(1, 12)),
        (0, "up", torch.zeros(1, 4)),
        (0, "../../m", torch.zeros(1, 12)),
        (0, "qkv", torch.zeros(1, 11)),
        (0, "qkv", torch.zeros(12)),
        (0, "qkv", torch.zeros(1, 12).long()),
        (0, "qkv", None),
    ],
)
def test_questions_about_what_is_not_adapted_are_refused(sides, block, matrix, low):
    with pytest.raises(DeviceError, match="'blocks' asked for what is not adapted"):
        sides.answering.answer(BLOCKS, Residual(7, 1, block, matrix), low)


def test_questions_of_another_plan_get_no_answer(sides):
    sides.answering.answer(BLOCKS, Residual(6, 1, 0, "qkv"), torch.zeros(1, 12))
    assert sides.blocks.receive(0.2) is None
    sides.answering.answer(BLOCKS, Residual(7, 1, 0, "qkv"), torch.zeros(1, 12))
    assert sides.blocks.receive(10) is not None
