"""One answer: a request through an engine, as text."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from statistics import median

from edgewise.models.text_stream import TextStream
from edgewise.models.tokenizer import Tokenizer
from edgewise.runtime.engine import Engine, Request, Token, stream


@dataclass(frozen=True, slots=True)
class Answer:
    """Text, why it ended ("stop" or "length"), and how long its tokens took.

    `seconds_per_token` is the median time from one token to the next, None with fewer than two;
    `stage_seconds` the median of each stage's share of it.
    """

    text: str
    finish: str
    tokens: int
    seconds_per_token: float | None
    stage_seconds: list[float]


def answer(
    engine: Engine,
    tokenizer: Tokenizer,
    request: Request,
    stop: Sequence[str] = (),
    on_text: Callable[[str], None] = lambda text: None,
) -> Answer:
    """Run a request to its end, or to a stop string, handing over text as it becomes certain."""
    text = TextStream(tokenizer.decode, stop)
    tokens: list[Token] = []
    pieces: list[str] = []

    def emit(piece: str) -> None:
        if piece:
            pieces.append(piece)
            on_text(piece)

    for token in stream(engine, request):
        tokens.append(token)
        if token.finish != "stop":
            emit(text.push(token.id))
        if text.stopped:
            break
    if not text.stopped:
        emit(text.flush())
    finish = "stop" if text.stopped else tokens[-1].finish or "length"
    return Answer("".join(pieces), finish, len(tokens), *_pace(tokens))


def _pace(tokens: Sequence[Token]) -> tuple[float | None, list[float]]:
    if len(tokens) < 2:
        return None, []
    seconds = median(after.at - before.at for before, after in pairwise(tokens))
    stages = zip(*(token.stage_seconds for token in tokens[1:]), strict=True)
    return seconds, [median(stage) for stage in stages]
