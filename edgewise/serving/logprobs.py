"""Log-probabilities as OpenAI's API has them."""

from collections.abc import Callable, Iterable, Sequence
from typing import Any

from edgewise.runtime.scores import Score

Text = Callable[[int], str]  # of a token


def chat_logprobs(scores: Iterable[Score], text: Text) -> dict[str, Any]:
    def entry(token: int, logprob: float) -> dict[str, Any]:
        said = text(token)
        return {"token": said, "logprob": logprob, "bytes": list(said.encode())}

    content = [
        {
            **entry(score.token, score.logprob),
            "top_logprobs": [entry(token, logprob) for token, logprob in score.top],
        }
        for score in scores
    ]
    return {"content": content}


def completion_logprobs(
    scores: Sequence[Score], text: Text, offset: int, first: int | None = None
) -> dict[str, Any]:
    """`offset`: characters before the first token. `first`: a token without a log-probability, in
    front of them: nothing precedes it."""
    tokens = [text(score.token) for score in scores]
    logprobs: list[float | None] = [score.logprob for score in scores]
    top: list[dict[str, float] | None] = [_top(score, text) for score in scores]
    if first is not None:
        tokens, logprobs, top = [text(first), *tokens], [None, *logprobs], [None, *top]
    offsets = list[int]()
    for token in tokens:
        offsets.append(offset)
        offset += len(token)
    return {
        "tokens": tokens,
        "token_logprobs": logprobs,
        "top_logprobs": top,
        "text_offset": offsets,
    }


def _top(score: Score, text: Text) -> dict[str, float]:
    """The likeliest tokens, and the token itself. Where several read alike, the likeliest."""
    top = dict[str, float]()
    for token, logprob in (*score.top, (score.token, score.logprob)):
        top.setdefault(text(token), logprob)
    return top
