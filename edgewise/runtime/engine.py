"""What an engine is: five methods, and the nouns they speak."""

from collections.abc import Generator
from dataclasses import dataclass, field, replace
from typing import Protocol

from edgewise.errors import NonFinite, PromptError
from edgewise.runtime.sampling import Sampling
from edgewise.runtime.scores import Score
from edgewise.runtime.stats import Stats


class Matcher(Protocol):
    """Where an answer is in a grammar."""

    def allowed(self) -> bytes:
        """The tokens that may follow: a bit for each, the lowest of the first byte first."""
        ...

    def accept(self, token: int) -> None:
        """The token that follows, one of those allowed."""
        ...


class Grammar(Protocol):
    """What answers may look like."""

    def matcher(self) -> Matcher:
        """At the beginning of an answer."""
        ...


@dataclass(frozen=True, slots=True)
class Request:
    """Token ids in, at most `max_tokens` out; generation ends early at any of `stop_ids`, which a
    `grammar` allows where an answer may end. `top`: tokens come with their log-probability, and
    those of so many likeliest ones; with `score_prompt`, so does the prompt.

    It is to end within `deadline` seconds from its arrival, by a plan of at least `min_quality`: 1
    less the share of the model's own loss that the plan may add. None: whenever, by any plan.
    `adapter` is the name of one, "" for the model as it is. Raises PromptError where deadline or
    quality is impossible."""

    prompt: tuple[int, ...]
    max_tokens: int
    sampling: Sampling = field(default_factory=Sampling)
    stop_ids: frozenset[int] = frozenset()
    top: int | None = None
    score_prompt: bool = False
    grammar: Grammar | None = None
    deadline: float | None = None
    min_quality: float | None = None
    adapter: str = ""

    def __post_init__(self) -> None:
        if self.deadline is not None and not self.deadline > 0:
            raise PromptError(f"a deadline must be later than the request, not {self.deadline} s")
        if self.min_quality is not None and not 0 <= self.min_quality <= 1:
            raise PromptError(f"a quality is between 0 and 1, not {self.min_quality}")


@dataclass(frozen=True, slots=True)
class Token:
    """One sampled token. `finish` is None, "stop", "length" or "error", which `error` explains:
    then there is no token; from a host also "refused", where none could ever be. `at` is the clock
    of `time.monotonic`; `stage_seconds` is what each stage spent computing the step that it came
    from. The first one has the scores of the `prompt`, from its second token on, where they were
    asked for."""

    request: int
    id: int
    finish: str | None
    at: float
    stage_seconds: tuple[float, ...]
    error: str = ""
    score: Score | None = None
    prompt: tuple[Score, ...] = ()


class Engine(Protocol):
    """Runs requests. Every method may raise a DeviceError."""

    def submit(self, request: Request) -> int:
        """Queue a request and return its number. Raises PromptError."""
        ...

    def step(self) -> list[Token]:
        """Wait for the next tokens; an empty list when there is nothing to wait for."""
        ...

    def cancel(self, request: int) -> None:
        """Forget a request; no more of its tokens come. Unknown ones are ignored."""
        ...

    def stats(self) -> Stats: ...

    def close(self) -> None:
        """Stop everything. May be called twice."""
        ...


def samples(request: Request, count: int) -> list[Request]:
    """`count` requests for the same prompt that draw independently of each other, each as often as
    it is run the same tokens."""
    streams = (replace(request.sampling, stream=number) for number in range(count))
    return [replace(request, sampling=sampling) for sampling in streams]


def stream(engine: Engine, request: Request) -> Generator[Token, None, None]:
    """The tokens of one request, while no other is running."""
    number = engine.submit(request)
    try:
        while True:
            for token in engine.step():
                if token.request == number:
                    yield token
                    if token.finish is not None:
                        return
    finally:
        engine.cancel(number)


def warm_up(engine: Engine) -> None:
    """Send a first token round, so that no user waits for what is set up on first use. Raises
    NonFinite where the model computes no numbers."""
    for token in stream(engine, Request((0,), max_tokens=2)):
        if token.error:
            raise NonFinite(token.error)
