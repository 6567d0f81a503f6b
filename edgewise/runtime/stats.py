"""What an engine's numbers are called."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Durations:
    """Seconds of something: how often, their sum, and how often at most each of rising bounds, the
    last of which is infinite; median and 99th percentile of the last thousand, None without any."""

    count: int
    total: float
    within: tuple[tuple[float, int], ...]
    median: float | None
    p99: float | None


@dataclass(frozen=True, slots=True)
class StageStats:
    """A stage of the plan in use, since it is: seconds computing, and seconds in which it did not
    although there was something in the pipeline."""

    device: str
    start: int
    end: int
    busy_seconds: float
    waiting_seconds: float


@dataclass(frozen=True, slots=True)
class LinkStats:
    """What the plan in use has sent from one device to another, since it is in use."""

    source: str
    target: str
    bytes: int


@dataclass(frozen=True, slots=True)
class Replanned:
    """Another plan came into use, because of this, and it took so long to find and load it."""

    why: str
    seconds: float


@dataclass(frozen=True, slots=True)
class Finished:
    """A request that ended: "stop", "length" or "error". Seconds from when it was submitted to its
    first token, None where there was none, and from one token to the next in the mean."""

    request: int
    prompt_tokens: int
    new_tokens: int
    first_seconds: float | None
    token_seconds: float | None
    finish: str


@dataclass(frozen=True, slots=True)
class Stats:
    """Requests now, and what was done so far.

    Prompt tokens are those of requests that got an answer's first token, `shared_tokens` those
    that were copied from another request's cache and not computed. `tokens_per_second` is of the
    last ten seconds. Times to the first token count from when a request was submitted, times per
    token from the token before.

    Bytes of links are those of hidden states and token ids, as the cost model counts them: the
    coordinator adds them up from batches that came back and the plan's stages; and those of what
    private adapters ask the source for, which devices count. Headers, weights, and what was on its
    way when a device was lost are not in them.
    """

    waiting: int
    running: int
    finished: int
    failed: int
    cancelled: int
    prompt_tokens: int
    new_tokens: int
    shared_tokens: int
    tokens_per_second: float
    first_token: Durations
    per_token: Durations
    stages: tuple[StageStats, ...]
    links: tuple[LinkStats, ...]
    replans: int
    last_replans: tuple[Replanned, ...]
    last_finished: tuple[Finished, ...]
    memory_bytes: dict[str, int]
