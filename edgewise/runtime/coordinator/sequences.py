"""A request on its way."""

import math
from dataclasses import dataclass, field

from edgewise.runtime.batches import Wish
from edgewise.runtime.engine import Matcher, Request
from edgewise.runtime.limits import Limits
from edgewise.runtime.masks import deflated
from edgewise.runtime.scores import Score


@dataclass(slots=True)
class Sequence:
    """A request's tokens so far, prompt and answer. The first `entered` have entered the pipeline,
    the first `computed` are through. `arrived` is by the clock of whoever submitted it. `scores`
    are the prompt's, by position. `allowed` may follow, where a grammar says so, as it travels
    (masks.py). `adapter` is the number of what the request calls by name, 0 for none."""

    number: int
    request: Request
    tokens: list[int]
    entered: int = 0
    computed: int = 0
    arrived: float = 0.0
    scores: dict[int, Score] = field(default_factory=dict)
    matcher: Matcher | None = None  # None before its first token
    allowed: bytes = b""
    adapter: int = 0

    @property
    def size(self) -> int:
        """Tokens at its end: what it must have room for."""
        return len(self.request.prompt) + self.request.max_tokens

    @property
    def deadline(self) -> float:
        """By the clock that it arrived by."""
        return self.arrived + (self.request.deadline or math.inf)

    @property
    def begun(self) -> bool:
        """Its client has tokens of it."""
        return len(self.tokens) > len(self.request.prompt)

    @property
    def ready(self) -> bool:
        return self.entered < len(self.tokens)

    @property
    def answering(self) -> bool:
        """Its whole prompt has entered."""
        return self.entered >= len(self.request.prompt)

    def end(self, start: int, limits: Limits) -> int:
        """Where a row from `start` on ends. Answers are one token, or what a restart lost."""
        prompt = len(self.request.prompt)
        if start >= prompt:
            return min(start + limits.replay_chunk, len(self.tokens))
        return min((start // limits.chunk + 1) * limits.chunk, prompt)

    def wish(self, start: int, end: int) -> Wish | None:
        """What the row of the tokens [start, end), the next one, asks of the last stage."""
        request, prompt = self.request, len(self.request.prompt)
        counts, samples = request.sampling.counts, end == len(self.tokens)
        # From `entered` on, not `start`: a prefix is copied, and the last stage does not know it.
        past = tuple(self.tokens[self.entered : end]) if counts else ()
        scored = request.score_prompt and len(self.tokens) == prompt
        wish = Wish(
            past,
            prompt if counts else 0,
            self._allowed() if samples else b"",
            request.top if samples or scored else None,
            request.prompt[start + 1 : end + 1] if scored else (),
        )
        return None if wish == Wish() else wish

    def _allowed(self) -> bytes:
        if self.request.grammar is not None and not self.allowed:
            self.matcher = self.matcher or self.request.grammar.matcher()
            self.allowed = deflated(self.matcher.allowed())
        return self.allowed

    def add(self, token: int) -> str | None:
        """Append the token that follows all others. Returns what this ends with, or None."""
        self.computed = self.entered
        self.tokens.append(token)
        if self.matcher is not None:
            self.matcher.accept(token)
            self.allowed = b""
        if token in self.request.stop_ids:
            return "stop"
        return "length" if len(self.tokens) == self.size else None

    def lose(self) -> None:
        """Its cache is gone, its tokens are not."""
        self.entered = self.computed = 0


def shared(a: Sequence, b: Sequence, share: int) -> int:
    """Tokens of prefix, a multiple of `share`, that `a` can copy from `b` once it has computed
    them, with the same adapter. Prompts only: answers are computed otherwise. One token is left,
    to sample behind."""
    if a.adapter != b.adapter:
        return 0
    most = min(len(a.request.prompt) - 1, len(b.request.prompt))
    same = 0
    while same + share <= most and (
        a.request.prompt[same : same + share] == b.request.prompt[same : same + share]
    ):
        same += share
    return same
