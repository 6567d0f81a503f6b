"""Answers of one call: to the host as requests, and back as pieces of text."""

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass, field
from functools import partial

from edgewise.hosting import Host
from edgewise.models.text_stream import TextStream
from edgewise.runtime.engine import Request, Token
from edgewise.runtime.scores import Score
from edgewise.serving.errors import Refusal
from edgewise.serving.mailbox import Mailbox

WAIT_SECONDS = 60.0  # for devices, where no plan is possible


@dataclass(frozen=True, slots=True)
class TextPiece:
    """Of the answer `index`: text, and the scores of the tokens up to its end. The last one says
    why the answer `finish`ed. The first one has the scores of the prompt."""

    index: int
    text: str = ""
    scores: tuple[Score, ...] = ()
    finish: str = ""
    prompt: tuple[Score, ...] = ()


class Answers:
    """Asks for them while it is entered, and cancels what is not answered at its end. `pieces`
    yields those of all as they come; `tokens` counts."""

    def __init__(
        self,
        host: Host,
        mailbox: Mailbox,
        decode: Callable[[Sequence[int]], str],
        requests: Sequence[Request],
        stops: Sequence[str],
    ) -> None:
        self._host, self._mailbox, self._requests = host, mailbox, requests
        self._answers = [_Answer(i, TextStream(decode, stops)) for i in range(len(requests))]
        self._queue: asyncio.Queue[tuple[int, Token]] = asyncio.Queue()
        self._left: dict[int, Callable[[], None]] = {}  # what cancels them
        self.tokens = 0

    def __len__(self) -> int:
        return len(self._requests)

    def __enter__(self) -> "Answers":
        loop = asyncio.get_running_loop()
        for index, request in enumerate(self._requests):

            def listen(token: Token, index: int = index) -> None:
                self._mailbox.put(loop, partial(self._queue.put_nowait, (index, token)))

            self._left[index] = self._host.ask(request, listen, WAIT_SECONDS)
        return self

    def __exit__(self, *_: object) -> None:
        for cancel in self._left.values():
            cancel()

    async def pieces(self) -> AsyncIterator[TextPiece]:
        """Until all are whole. Raises Refusal."""
        while self._left:
            index, token = await self._queue.get()
            if index not in self._left:
                continue  # behind a stop string
            if token.finish in ("error", "refused"):
                raise Refusal(503 if token.finish == "error" else 400, token.error)
            self.tokens += 1
            piece = self._answers[index].add(token)
            if piece.finish:
                self._left.pop(index)()
            yield piece


@dataclass(slots=True)
class _Answer:
    index: int
    text: TextStream
    held: list[Score] = field(default_factory=list)  # of tokens whose text is not certain yet

    def add(self, token: Token) -> TextPiece:
        """A token as far as it can be told."""
        if token.finish == "stop":
            piece = self.text.flush()
        else:
            piece = self.text.push(token.id)
            self.held += [token.score] if token.score is not None else []
            if token.finish and not self.text.stopped:
                piece += self.text.flush()
        finish = "stop" if self.text.stopped else token.finish or ""
        scores: tuple[Score, ...] = ()
        if not self.text.stopped and (finish or piece):
            scores, self.held = tuple(self.held), []
        return TextPiece(self.index, piece, scores, finish, token.prompt)
