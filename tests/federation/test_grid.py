"""Clients behind a grid, of nodes that come, go, hang and are mended."""

import time
from types import SimpleNamespace

import numpy as np
import pytest

pytest.importorskip("flwr", reason="needs the extra 'federated': make test-federated")

from flwr.app import Message, RecordDict
from flwr.supercore.task_identity import TaskIdentity

from edgewise.errors import EdgewiseError
from edgewise.federating.exchanges import ADAPTER, Ask, AskedFor, Parcel
from edgewise.federation.flower import grid
from edgewise.federation.flower.grid import GridClients
from edgewise.federation.flower.messages import CLIENT, about, is_hello, parcel_record

LIKE = {"x": np.zeros(2, dtype=np.float32)}
HANGS = object()  # takes what it is sent, and says nothing
FAULTY = {"fault": "nowhere.jsonl: no such file"}


class ToyGrid:
    """`nodes` are what each says of itself, by number; who hangs may be let go."""

    def __init__(self, nodes):
        self.nodes, self.sent = nodes, {}

    def get_node_ids(self):
        return list(self.nodes)

    def push_messages(self, messages):
        for message in messages:
            self.sent[f"m{len(self.sent)}"] = message
            yield f"m{len(self.sent) - 1}"

    def pull_messages(self, identities):
        for identity in identities:
            message = self.sent[identity]
            said = self.nodes.get(message.metadata.dst_node_id, HANGS)
            if said is not HANGS:
                message.metadata.__dict__["_message_id"] = identity
                yield Message(self.answer(message, said), reply_to=message)

    def answer(self, message, said):
        hello = is_hello(message.content)
        record = RecordDict() if hello else parcel_record(Parcel({ADAPTER: LIKE}))
        record[CLIENT] = about(said)
        return record


def good(name):
    return {"name": name, "digest": "layers"}


@pytest.fixture
def clients(monkeypatch):
    for name in ("_run_id", "_task_id", "_node_id"):  # as in a server's process
        monkeypatch.setattr(TaskIdentity, name, 1)
    monkeypatch.setattr(grid, "POLL", 0.01)
    monkeypatch.setattr(grid, "GREETING", 0.3)

    def make(nodes, deadline=1000.0):
        events, toy = [], ToyGrid(nodes)

        def tell(event, **what):
            events.append(SimpleNamespace(event=event, **what))

        return GridClients(toy, LIKE, "layers", deadline, tell), toy, events

    return make


def test_who_says_nothing_when_it_comes_is_waited_for_once_and_heard_when_it_speaks(clients):
    asked, toy, events = clients({1: good("a"), 2: HANGS})
    began = time.monotonic()
    assert asked.names() == ["a"]
    train = Ask(AskedFor.TRAIN, 1, Parcel({ADAPTER: LIKE}))
    for _ in range(3):
        assert list(asked.ask(dict.fromkeys(asked.names(), train))) == ["a"]
    assert time.monotonic() - began < 30  # not the deadline
    assert sum(is_hello(x.content) for x in toy.sent.values()) == 2
    toy.nodes[2] = good("b")
    assert asked.names() == ["a", "b"]
    assert [x.answered for x in events if x.event == "asked"] == [["a"]] * 3


def test_a_refused_node_that_was_mended_is_asked_again(clients):
    asked, toy, events = clients({1: good("a"), 2: {"name": "b", **FAULTY}})
    assert asked.names() == asked.names() == ["a"]
    assert [x.text for x in events] == ["b is not asked: nowhere.jsonl: no such file"]
    del toy.nodes[2]
    assert asked.names() == ["a"]
    toy.nodes[2] = good("b")
    assert asked.names() == ["a", "b"]


def test_what_steers_a_terminal_is_not_in_a_name(clients):
    asked, _, _ = clients({1: good("\x1b[2Ja\n"), 2: good("\x1b"), 3: good("[2Ja")})
    assert asked.names() == ["2", "[2Ja", "[2Ja-3"]


def test_who_does_not_join_is_named(clients):
    asked, _, _ = clients({1: good("a"), 2: {"name": "b", **FAULTY}, 3: HANGS}, deadline=0.1)
    with pytest.raises(EdgewiseError) as caught:
        asked.gather(3)
    assert str(caught.value) == (
        "1 of 3 devices joined within 0.1 s; b is not asked: nowhere.jsonl: no such file; "
        "node 3 did not say who it is"
    )
