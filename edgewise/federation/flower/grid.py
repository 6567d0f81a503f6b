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
Note = Callable[[str], None]  # told what goes wrong with a client


class GridClients:
    """Clients by the name that they give themselves. Who did not answer is asked again in the next
    round, but not waited for once all others have answered. `like` is what an adapter looks like,
    `digest` that of the model's layers."""

    def __init__(self, grid: Grid, like: Arrays, digest: str, deadline: float, note: Note) -> None:
        self._grid, self._like, self._digest = grid, like, digest
        self._deadline, self._note = deadline, note
        self._nodes = dict[str, int]()  # by name
        self._refused, self._late = set[int](), set[int]()
        self._down, self._up = 0, 0

    def gather(self, least: int) -> None:
        """Wait until so many are there. Raises EdgewiseError."""
        end = time.monotonic() + self._deadline
        while len(self.names()) < least:
            if time.monotonic() > end:
                raise EdgewiseError(
                    f"{len(self._nodes)} of {least} devices joined within {self._deadline:g} s"
                )
            time.sleep(POLL)

    def names(self) -> list[str]:
        there = set(self._grid.get_node_ids())
        self._nodes = {name: node for name, node in self._nodes.items() if node in there}
        new = there - set(self._nodes.values()) - self._refused
        if new:
            hello = RecordDict({REQUEST: ConfigRecord({"wanted": HELLO, "round": 0})})
            for node, record in self._exchanged(dict.fromkeys(new, hello), False).items():
                self._greet(node, said_by(record))
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
        return parcels

    def moved(self) -> RoundTraffic:
        moved, self._down, self._up = RoundTraffic(self._down, self._up), 0, 0
        return moved

    def _greet(self, node: int, said: Mapping[str, str]) -> None:
        name = said.get("name", str(node))[:64]
        name = f"{name}-{node}" if name in self._nodes else name
        fault = said.get("fault")
        if not fault and said.get("digest") != self._digest:
            fault = "its model has other layers than the federation's"
        if fault:
            self._refused.add(node)
            self._note(f"{name} is not asked: {fault}")
        else:
            self._nodes[name] = node

    def _exchanged(self, asked: Mapping[int, RecordDict], training: bool) -> dict[int, RecordDict]:
        """What came back in time, by node."""
        kind = MessageType.TRAIN if training else MessageType.QUERY
        messages = [
            Message(record, node, kind, ttl=2 * self._deadline) for node, record in asked.items()
        ]
        self._down += sum(_size(message.content) for message in messages)
        sent = zip(self._grid.push_messages(messages), asked, strict=True)
        waiting = {identity: node for identity, node in sent if identity}
        began, answers, records = time.monotonic(), list[float](), dict[int, RecordDict]()
        while waiting:
            for message in self._grid.pull_messages(list(waiting)):
                node = waiting.pop(message.metadata.reply_to_message_id, None)
                if node is None:
                    continue
                if message.has_error():
                    self._note(f"node {node}: {message.error.reason}")
                    continue
                self._up += _size(message.content)
                answers.append(time.monotonic() - began)
                records[node] = message.content
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
