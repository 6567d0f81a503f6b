"""Clients behind Flower's grid: SuperNodes that come and go."""

import time
from collections.abc import Callable, Collection, Mapping, Sequence

from flwr.app import ConfigRecord, Message, MessageType, RecordDict
from flwr.serverapp import Grid

from edgewise.errors import EdgewiseError, InputError
from edgewise.federating.exchanges import Ask, AskedFor, Parcel
from edgewise.federating.traffic import RoundTraffic
from edgewise.federating.updates import Arrays
from edgewise.federating.waiting import waited_until
from edgewise.federation.flower.messages import (
    HELLO,
    REQUEST,
    ask_record,
    parcel_of,
    said_by,
)

POLL = 0.5  # seconds
GREETING = 30.0  # seconds that who came is waited for; later it is heard whenever others are
Tell = Callable[..., None]  # an event and what belongs to it


class GridClients:
    """Clients by the name that they give themselves. Who did not answer is asked again in the next
    round, but not waited for once all others have answered. `like` is what an adapter looks like,
    `digest` that of the model's layers. `tell` hears what goes wrong with a client ("note"), and
    that an exchange is over ("asked")."""

    def __init__(self, grid: Grid, like: Arrays, digest: str, deadline: float, tell: Tell) -> None:
        self._grid, self._like, self._digest = grid, like, digest
        self._deadline, self._tell = deadline, tell
        self._nodes = dict[str, int]()  # by name
        self._greeted = dict[str, int]()  # by message
        self._refused = dict[int, str]()  # why
        self._late = set[int]()
        self._down, self._up = 0, 0

    def gather(self, least: int) -> None:
        """Wait until so many are there. Raises EdgewiseError."""
        end = time.monotonic() + self._deadline
        while len(self.names()) < least:
            if time.monotonic() > end:
                joined = f"{len(self._nodes)} of {least} devices joined within {self._deadline:g} s"
                silent = [f"node {node} did not say who it is" for node in self._greeted.values()]
                raise EdgewiseError("; ".join([joined, *self._refused.values(), *silent]))
            time.sleep(POLL)

    def names(self) -> list[str]:
        there = set(self._grid.get_node_ids())
        self._nodes = {name: node for name, node in self._nodes.items() if node in there}
        self._greeted = {sent: node for sent, node in self._greeted.items() if node in there}
        self._refused = {node: fault for node, fault in self._refused.items() if node in there}
        new = there - {*self._nodes.values(), *self._greeted.values(), *self._refused}
        hello = RecordDict({REQUEST: ConfigRecord({"wanted": HELLO, "round": 0})})
        self._greeted |= self._sent(dict.fromkeys(new, hello), MessageType.QUERY)
        end = time.monotonic() + (GREETING if new else 0)
        while self._greeted:
            for node, record in self._came(self._greeted).items():
                self._greet(node, said_by(record))
            if not self._greeted or time.monotonic() > end:
                break
            time.sleep(POLL)
        return sorted(self._nodes)

    def ask(self, requests: Mapping[str, Ask]) -> dict[str, Parcel]:
        asked = {self._nodes[name]: ask_record(x) for name, x in requests.items()}
        training = all(x.wanted is AskedFor.TRAIN for x in requests.values())
        names = {node: name for name, node in self._nodes.items()}
        parcels = dict[str, Parcel]()
        for node, record in self._exchanged(asked, training).items():
            name = names[node]
            if fault := said_by(record).get("fault"):
                self._note(f"{name}: {fault}")
                continue
            try:
                parcels[name] = parcel_of(record, self._like)
            except InputError as error:  # it answered: what cannot be read is refused by name
                self._note(f"{name}: {error}")
                parcels[name] = Parcel()
        self._tell("asked", answered=sorted(parcels))
        return parcels

    def moved(self) -> RoundTraffic:
        moved, self._down, self._up = RoundTraffic(self._down, self._up), 0, 0
        return moved

    def _note(self, text: str) -> None:
        self._tell("note", text=text)

    def _greet(self, node: int, said: Mapping[str, str]) -> None:
        name = "".join(filter(str.isprintable, said.get("name", "")[:64])) or str(node)
        name = f"{name}-{node}" if name in self._nodes else name
        fault = said.get("fault")
        if not fault and said.get("digest") != self._digest:
            fault = "its model has other layers than the federation's"
        if fault:
            self._refused[node] = f"{name} is not asked: {fault}"
            self._note(self._refused[node])
        else:
            self._nodes[name] = node

    def _sent(self, asked: Mapping[int, RecordDict], kind: str) -> dict[str, int]:
        """Nodes, by the message that each was sent."""
        messages = [
            Message(record, node, kind, ttl=2 * self._deadline) for node, record in asked.items()
        ]
        self._down += sum(_size(message.content) for message in messages)
        sent = zip(self._grid.push_messages(messages), asked, strict=True)
        return {identity: node for identity, node in sent if identity}

    def _came(self, waiting: dict[str, int]) -> dict[int, RecordDict]:
        """What has come since, by node; those are waited for no longer."""
        records = dict[int, RecordDict]()
        for message in self._grid.pull_messages(list(waiting)):
            node = waiting.pop(message.metadata.reply_to_message_id, None)
            if node is None:
                continue
            if message.has_error():
                self._note(f"node {node}: {message.error.reason}")
                continue
            self._up += _size(message.content)
            records[node] = message.content
        return records

    def _exchanged(self, asked: Mapping[int, RecordDict], training: bool) -> dict[int, RecordDict]:
        """What came back in time, by node."""
        waiting = self._sent(asked, MessageType.TRAIN if training else MessageType.QUERY)
        began, answers, records = time.monotonic(), list[float](), dict[int, RecordDict]()
        while waiting:
            came = self._came(waiting)
            records |= came
            answers += [time.monotonic() - began] * len(came)
            there = set(self._grid.get_node_ids())
            left = {identity: node for identity, node in waiting.items() if node in there}
            if self._over(left.values(), answers, time.monotonic() - began):
                break
            time.sleep(POLL)
        self._late = (self._late | set(waiting.values())) - records.keys()
        return records

    def _over(self, waiting: Collection[int], answers: Sequence[float], elapsed: float) -> bool:
        """Whether nobody is waited for any more: late ones are not where others have answered."""
        if not waiting:
            return True
        prompt = set(waiting) - self._late
        if not prompt and answers:
            return True
        asked = len(answers) + len(prompt)
        return elapsed > waited_until(answers, asked, self._deadline)


def _size(record: RecordDict) -> int:
    """Bytes of what a message carries, as they are serialised."""
    return sum(part.count_bytes() for part in record.values())
