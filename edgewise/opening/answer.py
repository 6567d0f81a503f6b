"""One answer: tokens of an engine, as text."""

from collections.abc import Callable, Generator, Sequence
from contextlib import closing
from dataclasses import dataclass
from itertools import pairwise
from statistics import median

from edgewise.errors import EdgewiseError
from edgewise.models.text_stream import TextStream
from edgewise.models.tokenizer import Tokenizer
from edgewise.runtime.engine import Token

Tokens = Generator[Token, None, None]


@dataclass(frozen=True, slots=True)
class Answer:
    """Text, why it ended ("stop" or "length"), and how long its tokens took.

    `seconds_per_token` is the median time from one token to the next, None with fewer than two;
    `stage_seconds` the median of each stage's share of it, of the stages there were at the end.
    """

    text: str
    finish: str
    tokens: int
    seconds_per_token: float | None
    stage_seconds: list[float]


def pieces_of(
    tokens: Tokens, tokenizer: Tokenizer, stop: Sequence[str] = ()
) -> Generator[str, None, Answer]:
    """Text as it becomes certain, to the tokens' end or a stop string; returns all of it. Raises
    EdgewiseError where the model computes no token."""
    text = TextStream(tokenizer.decode, stop)
    taken: list[Token] = []
    pieces: list[str] = []
    with closing(tokens):
        for token in tokens:
            if token.finish == "error":
                raise EdgewiseError(token.error)
            taken.append(token)
            if token.finish != "stop" and (piece := text.push(token.id)):
                pieces.append(piece)
                yield piece
            if text.stopped:
                break
    if not text.stopped and (piece := text.flush()):
        pieces.append(piece)
        yield piece
    finish = "stop" if text.stopped else taken[-1].finish or "length"
    return Answer("".join(pieces), finish, len(taken), *_pace(taken))


def answer(
    tokens: Tokens,
    tokenizer: Tokenizer,
    stop: Sequence[str] = (),
    on_text: Callable[[str], None] = lambda text: None,
) -> Answer:
    """All of it, its pieces handed over as they come."""
    pieces = pieces_of(tokens, tokenizer, stop)
    while True:
        try:
            on_text(next(pieces))
        except StopIteration as end:
            return end.value  # type: ignore[no-any-return]


def _pace(tokens: Sequence[Token]) -> tuple[float | None, list[float]]:
    if len(tokens) < 2:
        return None, []
    seconds = median(after.at - before.at for before, after in pairwise(tokens))
    # After a device was lost there may be other stages.
    number = len(tokens[-1].stage_seconds)
    alike = [x.stage_seconds for x in tokens[1:] if len(x.stage_seconds) == number]
    return seconds, [median(stage) for stage in zip(*alike, strict=True)]
