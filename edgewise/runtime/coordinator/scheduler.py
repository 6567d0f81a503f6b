"""Which rows enter the pipeline next: continuous batching without clock, threads or arithmetic.

Time is what callers say: `now`, in seconds, never falling; without deadlines it means nothing.

Batches enter, pass every stage and return in one order. So memory is counted in that order as well:
what a batch drops is free for its own rows, whatever is still in flight before it.
"""

from collections import deque
from dataclasses import dataclass

from edgewise.errors import PromptError, Unattainable
from edgewise.runtime.batches import Batch, Row
from edgewise.runtime.coordinator.admission import FIRST_COME, Admission, Slowness
from edgewise.runtime.coordinator.sequences import Sequence, shared
from edgewise.runtime.engine import Request
from edgewise.runtime.limits import Limits
from edgewise.runtime.scores import PromptScores, Score

EPOCH_SECONDS = 0.05


@dataclass(frozen=True, slots=True)
class _Flight:
    """A batch in the pipeline: whether it takes a lane, when it entered, and the seconds that it
    is expected to take."""

    batch: Batch
    answers: bool
    entered: float
    expected: float


class Scheduler:
    """Decides what enters; whoever asks sends it, and tells what came back.

    Requests wait until a slot and pages for all of their tokens are free, and the policy lets them
    in: by default in the order of their numbers, none overtaking. The policy is asked when requests
    came or went, and every EPOCH_SECONDS: what runs gets done. Those that run take turns: who was
    served longest ago comes first. A batch is answers, a token each, and one piece of one prompt.
    Caches of finished requests are kept for their prefixes as long as nobody needs the room, the
    one used last the longest.
    """

    def __init__(self, limits: Limits, admission: Admission = FIRST_COME) -> None:
        self.limits, self._admission = limits, admission
        self._asked, self._changed = 0.0, True
        self._waiting: deque[Sequence] = deque()
        self._running: dict[int, Sequence] = {}  # served longest ago first
        self._kept: dict[int, Sequence] = {}  # used longest ago first
        self._dropped: list[int] = []  # told to the stages by the next batch
        self._in_flight: list[_Flight] = []
        self._slowness, self._last_back = Slowness(), 0.0
        self._closed = False  # this round is on its way back

    @property
    def waiting(self) -> int:
        return len(self._waiting)

    @property
    def running(self) -> int:
        return len(self._running)

    @property
    def in_flight(self) -> int:
        return len(self._in_flight)

    @property
    def adapters(self) -> set[int]:
        """Those that rows are computed with, now or later."""
        entered = (row.adapter for flight in self._in_flight for row in flight.batch.rows)
        return {*entered, *(one.adapter for one in (*self._waiting, *self._running.values()))}

    def submit(self, number: int, request: Request, now: float = 0.0, adapter: int = 0) -> None:
        """Queue a request of at least a token in and one out, its number larger than those before.
        Raises PromptError where it can never fit, Unattainable where its needs cannot be met."""
        self.limits.check(request)
        new = Sequence(number, request, list(request.prompt), arrived=now, adapter=adapter)
        self._admission.check(new, now)
        self._waiting.append(new)
        self._changed = True

    def hopeless(self, now: float) -> dict[int, Unattainable]:
        """Forget those that wait, of whom nobody has a token, and cannot be in time any more.
        Returns them, and why."""
        late = dict[int, Unattainable]()
        for waiting in self._waiting:
            try:
                if not waiting.begun:
                    self._admission.check(waiting, now)
            except Unattainable as error:
                late[waiting.number] = error
        for number in late:
            self.cancel(number)
        return late

    def cancel(self, number: int) -> None:
        """Forget a request, whatever ended it; its tokens that still come back are ignored, as
        unknown requests are."""
        self._waiting = deque(waiting for waiting in self._waiting if waiting.number != number)
        self._changed = True
        if (running := self._running.pop(number, None)) is not None and running.entered:
            self._dropped.append(number)

    def is_running(self, number: int) -> bool:
        """Whether tokens of a request are waited for."""
        return number in self._running

    def next(self, now: float = 0.0) -> Batch | None:
        """The batch that may enter now; None: nothing may until something comes."""
        if self._closed or len(self._in_flight) == self.limits.places:
            return None
        self._admit(now)
        rows = self._rows()
        answers = any(self._running[row.request].answering for row in rows)
        if not rows or (not answers and len(self._in_flight) >= self._prompt_places()):
            return None
        batch = Batch(tuple(rows), tuple(self._dropped))
        expected = self._admission.step_seconds(batch, self._running)
        for row in rows:  # to the end of the turns
            sequence = self._running[row.request] = self._running.pop(row.request)
            sequence.entered = row.start + len(row.tokens)
            if row.prefix is not None and (source := self._kept.pop(row.prefix[0], None)):
                self._kept[source.number] = source
        self._dropped.clear()
        self._in_flight.append(_Flight(batch, answers, now, expected))
        return batch

    def sampled(self, number: int, token: int) -> str | None:
        """A request's token came back. Returns "stop" or "length" where it was the last, else None.
        Tokens that nobody waits for are ignored."""
        sequence = self._running.get(number)
        if sequence is None or sequence.ready:
            return None
        finish = sequence.add(token)
        if finish is not None:
            self._changed = True
            self._kept[number] = self._running.pop(number)
        return finish

    def scored(self, prompt: PromptScores) -> None:
        """Scores of a piece of a request's prompt came back."""
        if (sequence := self._running.get(prompt.request)) is not None:
            sequence.scores.update(enumerate(prompt.scores, prompt.start))

    def scores(self, number: int) -> tuple[Score, ...]:
        """The scores of a request's prompt, once: when its first token came."""
        sequence = self._running.get(number)
        if sequence is None or not sequence.scores or not sequence.answering:
            return ()
        scores, sequence.scores = sequence.scores, {}
        return tuple(scores[at] for at in sorted(scores))

    def returned(self, batch: Batch, now: float = 0.0, *, failed: bool = False) -> None:
        """A batch is through, or has failed on its way, and its tokens and errors were told. Raises
        ValueError where it is not in flight."""
        batches = [one.batch for one in self._in_flight]
        flight = self._in_flight.pop(batches.index(batch))
        if flight.expected:  # what it took behind the one before it
            self._slowness.learn(now - max(flight.entered, self._last_back), flight.expected)
        self._last_back = now
        if failed:  # before some stages, which do not know yet what they are to drop
            self._dropped[:0] = batch.dropped
        for row in batch.rows:
            if row.request in self._running:
                sequence = self._running[row.request]
                sequence.computed = max(sequence.computed, row.start + len(row.tokens))
        self._closed = self.limits.barrier and bool(self._in_flight)

    def restart(self, limits: Limits, admission: Admission | None = None) -> dict[int, PromptError]:
        """All batches in flight and all caches are lost. Requests that ran are first to enter
        again, with the tokens they had. Returns those that can never fit any more, and why."""
        lost = sorted(self._running.values(), key=lambda sequence: sequence.number)
        for sequence in lost:
            sequence.lose()
        asked, refused = [*lost, *self._waiting], {}
        self.limits, self._closed, self._changed = limits, False, True
        self._admission, self._slowness = admission or self._admission, Slowness()
        for one in (self._waiting, self._running, self._kept, self._dropped, self._in_flight):
            one.clear()
        for sequence in asked:
            try:
                limits.check(sequence.request)
                self._waiting.append(sequence)
            except PromptError as error:
                refused[sequence.number] = error
        return refused

    def _admit(self, now: float) -> None:
        if not self._waiting or len(self._running) == self.limits.sequences:
            return
        if not self._changed and now < self._asked + EPOCH_SECONDS:
            return
        self._asked, self._changed = now, False
        running, waiting = self._running.values(), {one.number: one for one in self._waiting}
        admission = self._admission.slowed(self._slowness.factor)
        for number in admission.choose(waiting.values(), running, self.limits, now):
            if not self._make_room(waiting[number]):
                break
            self._running[number] = waiting.pop(number)
        self._waiting = deque(waiting.values())

    def _make_room(self, new: Sequence) -> bool:
        """Whether a slot and pages are there for a request, when kept caches are dropped for it."""
        limits = self.limits
        needed = limits.pages_of(new.size)
        pages = limits.pages - sum(limits.pages_of(one.size) for one in self._running.values())
        if len(self._running) == limits.sequences or needed > pages:
            return False
        source, _ = self._source(new)
        if source in self._kept:
            self._kept[source] = self._kept.pop(source)
        while self._kept and (
            len(self._running) + len(self._kept) == limits.sequences
            or needed + sum(limits.pages_of(one.entered) for one in self._kept.values()) > pages
        ):
            oldest = next(iter(self._kept))
            del self._kept[oldest]
            self._dropped.append(oldest)
        return True

    def _source(self, new: Sequence) -> tuple[int, int]:
        """The request that has computed most of another's prefix, and how many tokens."""
        share, best = self.limits.share, (-1, 0)
        if new.request.score_prompt:
            return best
        for one in (*self._kept.values(), *self._running.values()):
            tokens = min(shared(new, one, share), one.computed // share * share)
            if tokens > best[1]:
                best = one.number, tokens
        return best

    def _prompt_places(self) -> int:
        """Batches in flight before which one of prompt alone may enter."""
        answering = any(sequence.answering for sequence in self._running.values())
        return self.limits.lanes + 1 if answering else self.limits.places

    def _rows(self) -> list[Row]:
        """Who is served longest ago comes first: answers where a lane is free, spread over the
        lanes, and one piece of a prompt."""
        limits = self.limits
        lane_free = sum(one.answers for one in self._in_flight) < limits.lanes
        rows: list[Row] = []
        room, prompt_free = self._share_of_lane(), True
        for sequence in self._running.values():
            allowed = lane_free if sequence.answering else prompt_free
            row = self._row(sequence) if sequence.ready and allowed else None
            if row is None:
                continue
            counts = sequence.answering or row.sampling is not None
            if not counts or room:
                rows.append(row)
                room -= counts
                prompt_free = prompt_free and sequence.answering
        return rows

    def _share_of_lane(self) -> int:
        """Rows of a batch that answer or sample at most: those of requests that do, or will with
        their next piece of prompt, spread over the lanes."""
        limits = self.limits
        sequences = self._running.values()
        near = sum(one.end(one.entered, limits) >= len(one.request.prompt) for one in sequences)
        return max(-(-near // limits.lanes), 1)  # a prefix may be all but a request's last piece

    def _row(self, sequence: Sequence) -> Row | None:
        """What enters next of a request; None while another computes its prefix."""
        start, prefix = sequence.entered, None
        if not start:
            source, start = self._source(sequence)
            if self._is_computed_elsewhere(sequence, start):
                return None
            prefix = (source, start) if start else None
        end = sequence.end(start, self.limits)
        sampling = sequence.request.sampling if end == len(sequence.tokens) else None
        tokens, wish = tuple(sequence.tokens[start:end]), sequence.wish(start, end)
        return Row(sequence.number, start, tokens, sampling, prefix, wish, sequence.adapter)

    def _is_computed_elsewhere(self, new: Sequence, tokens: int) -> bool:
        """Whether a request before it is at more of its prefix than the `tokens` it could have now.
        Only one before it, so that no two wait for each other."""
        return not new.request.score_prompt and any(
            one.number < new.number
            and one.computed < len(one.request.prompt)
            and shared(new, one, self.limits.share) > tokens
            for one in self._running.values()
        )
