"""Keeps count of what happens: events in, numbers out. It takes the same memory however long an
engine runs, but for requests that are under way."""

import logging
from bisect import bisect_left
from collections import Counter, deque
from collections.abc import Callable
from dataclasses import dataclass
from itertools import accumulate, pairwise

from edgewise.models.branches import rows_before
from edgewise.plans import Plan
from edgewise.runtime.batches import Row
from edgewise.runtime.engine import Token
from edgewise.runtime.events import Cancelled, Entered, Event, PlanInUse, Returned, Submitted
from edgewise.runtime.logs import fields
from edgewise.runtime.stats import Durations, Finished, LinkStats, Replanned, StageStats, Stats
from edgewise.specs import TOKEN_BYTES

BOUNDS = (  # of histograms, in seconds
    *(each * scale for scale in (0.001, 0.01, 0.1, 1.0, 10.0) for each in (1.0, 2.5, 5.0)),
    float("inf"),
)
RECENT = 1000  # durations, of which the median is taken
RATE_SECONDS, RATE_TOKENS = 10.0, 4096  # over which throughput is taken: the shorter
LAST_REPLANS, LAST_FINISHED = 8, 20

Ends = Callable[[int], tuple[int, ...]]


def without_windows(adapter: int) -> tuple[int, ...]:
    """Where no adapter has any."""
    return ()


log = logging.getLogger(__name__)


class Tally:
    """Listens to a coordinator; the plan in use is the first that it is told."""

    def __init__(self, hidden_size: int, now: float, ends: Ends = without_windows) -> None:
        """`ends` are those of an adapter's windows but the last (models/branches.py)."""
        self._hidden_size, self._began, self._ends = hidden_size, now, ends
        self._counts = Counter[str]()
        self._open: dict[int, _Open] = {}
        self._first, self._between = _Histogram(), _Histogram()
        self._came = deque[float](maxlen=RATE_TOKENS)
        self._replans = deque[Replanned](maxlen=LAST_REPLANS)
        self._finished = deque[Finished](maxlen=LAST_FINISHED)
        self._plan: _PlanTally

    def listen(self, event: Event) -> None:
        match event:
            case Submitted():
                self._open[event.request] = _Open(event.at, event.prompt_tokens)
            case Entered():
                self._plan.enter(event.at)
                shared = (row.prefix[1] for row in event.batch.rows if row.prefix)
                self._counts["shared"] += sum(shared)
            case Returned():
                self._plan.leave(event)
            case Token():
                self._token(event)
            case Cancelled():
                self._counts["cancelled"] += self._open.pop(event.request, None) is not None
            case PlanInUse():
                self._plan = _PlanTally(event, self._hidden_size, self._ends)
                if event.why:
                    self._counts["replans"] += 1
                    self._replans.append(Replanned(event.why, event.seconds))

    def _token(self, token: Token) -> None:
        one = self._open[token.request]
        if not token.error:
            if one.tokens:
                self._between.add(token.at - one.last)
            else:
                one.first = token.at
                self._first.add(token.at - one.submitted)
                self._counts["prompt_tokens"] += one.prompt_tokens
            one.last = token.at
            one.tokens += 1
            self._counts["tokens"] += 1
            self._came.append(token.at)
        if token.finish is not None:
            self._counts["failed" if token.error else "finished"] += 1
            del self._open[token.request]
            self._finished.append(one.finished(token))
            seconds = token.at - one.submitted
            numbers = {"request": token.request, "tokens": one.tokens, "seconds": seconds}
            log.debug(fields("finished", **numbers, finish=token.finish, error=token.error))

    def stats(self, now: float, waiting: int, running: int, memory: dict[str, int]) -> Stats:
        """Everything so far; `waiting` and `running` are requests, `memory` bytes by device."""
        counts = self._counts
        return Stats(
            waiting=waiting,
            running=running,
            finished=counts["finished"],
            failed=counts["failed"],
            cancelled=counts["cancelled"],
            prompt_tokens=counts["prompt_tokens"],
            new_tokens=counts["tokens"],
            shared_tokens=counts["shared"],
            tokens_per_second=self._rate(now),
            first_token=self._first.durations(),
            per_token=self._between.durations(),
            stages=self._plan.stages(now),
            links=self._plan.links(),
            replans=counts["replans"],
            last_replans=tuple(self._replans),
            last_finished=tuple(self._finished),
            memory_bytes=dict(memory),
        )

    def _rate(self, now: float) -> float:
        full = len(self._came) == RATE_TOKENS
        since = max(now - RATE_SECONDS, self._came[0] if full else self._began)
        return sum(at > since for at in self._came) / (now - since) if now > since else 0.0


@dataclass(slots=True)
class _Open:
    """A request that nobody has finished yet."""

    submitted: float
    prompt_tokens: int
    tokens: int = 0
    first: float = 0.0
    last: float = 0.0

    def finished(self, end: Token) -> Finished:
        first = self.first - self.submitted if self.tokens else None
        pace = (self.last - self.first) / (self.tokens - 1) if self.tokens > 1 else None
        name, asked = end.request, self.prompt_tokens
        return Finished(name, asked, self.tokens, first, pace, end.finish or "")


class _Histogram:
    """Seconds, counted by bounds for ever, and the last ones themselves."""

    def __init__(self) -> None:
        self._counts, self._total = [0] * len(BOUNDS), 0.0
        self._recent = deque[float](maxlen=RECENT)

    def add(self, seconds: float) -> None:
        self._counts[bisect_left(BOUNDS, seconds)] += 1
        self._total += seconds
        self._recent.append(seconds)

    def durations(self) -> Durations:
        within = tuple(zip(BOUNDS, accumulate(self._counts), strict=True))
        rising = sorted(self._recent)
        median, p99 = (rising[int(q * len(rising))] if rising else None for q in (0.5, 0.99))
        return Durations(within[-1][1], self._total, within, median, p99)


class _PlanTally:
    """What happens while one plan is in use."""

    def __init__(self, use: PlanInUse, hidden_size: int, ends: Ends) -> None:
        self._plan, self._ends = use.plan, ends
        self._busy = [0.0] * len(use.plan.stages)
        self._hops, self._source = _hops(use.plan, use.source), use.source
        self._inner = _inner_hops(use.plan, hidden_size)
        self._bytes = Counter[tuple[str, str]]()
        self._in_flight, self._since, self._filled = 0, use.at, 0.0

    def enter(self, at: float) -> None:
        if not self._in_flight:
            self._since = at
        self._in_flight += 1

    def leave(self, back: Returned) -> None:
        self._in_flight -= 1
        if not self._in_flight:
            self._filled += back.at - self._since
        if back.seconds:
            self._busy = [a + b for a, b in zip(self._busy, back.seconds, strict=True)]
            rows = back.entered.batch.rows
            computed = sum(len(row.tokens) for row in rows)
            sampled = sum(row.sampling is not None for row in rows)
            for source, target, each, each_sampled in self._hops:
                self._bytes[source, target] += each * computed + each_sampled * sampled
            for source, target, each, block in self._inner:
                self._bytes[source, target] += each * sum(self._crossing(x, block) for x in rows)
        for device, sent, came in back.asked:
            self._bytes[device, self._source] += sent
            self._bytes[self._source, device] += came

    def _crossing(self, row: Row, block: int) -> int:
        """Hidden states that it has before a block."""
        asked = row.sampling is not None
        return sum(rows_before(block, len(row.tokens), asked, self._ends(row.adapter)))

    def stages(self, now: float) -> tuple[StageStats, ...]:
        filled = self._filled + (now - self._since if self._in_flight else 0.0)
        return tuple(
            StageStats(stage.device, stage.start, stage.end, busy, max(filled - busy, 0.0))
            for stage, busy in zip(self._plan.stages, self._busy, strict=True)
        )

    def links(self) -> tuple[LinkStats, ...]:
        return tuple(LinkStats(*ends, count) for ends, count in self._bytes.items())


def _hops(plan: Plan, source: str) -> list[tuple[str, str, int, int]]:
    """The links that tokens take, and what each carries for one that is computed and for one that
    is sampled (CostModel.entry_hop, return_hop)."""
    first, last = plan.stages[0].device, plan.stages[-1].device
    hops = [(source, first, TOKEN_BYTES, 0), (last, source, 0, TOKEN_BYTES)]
    return [hop for hop in hops if hop[0] != hop[1]]


def _inner_hops(plan: Plan, hidden_size: int) -> list[tuple[str, str, int, int]]:
    """The links that hidden states take, what each carries for one of them, and before which block
    (CostModel.activation_hop)."""
    each = plan.wire.row_bytes(hidden_size)
    hops = [(a.device, b.device, each, b.start - 1) for a, b in pairwise(plan.stages)]
    return [hop for hop in hops if hop[0] != hop[1]]
