"""Which requests enter next, and which are refused: by a policy, and by what the cost model says.

What is predicted counts an answer as long as it may get, and a prompt as if none of it were shared.
"""

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace

from edgewise.batching import Candidate, Policy, Room, fcfs
from edgewise.batching.pace import Pace
from edgewise.errors import Unattainable
from edgewise.runtime.batches import Batch
from edgewise.runtime.coordinator.sequences import Sequence
from edgewise.runtime.limits import Limits

MEMORY = 0.97  # of what steps took, when another step is through
TRUST = 1.0  # seconds of steps for which the cost model's word stands

UNKNOWN = Pace((), lambda tokens: 0.0)  # nothing was measured: a deadline is missed once it is past


@dataclass(frozen=True, slots=True)
class Admission:
    """Pure: `now` is of whatever clock the requests' arrivals are of, in seconds."""

    policy: Policy = fcfs
    pace: Pace = UNKNOWN

    def slowed(self, slowness: float) -> "Admission":
        """The same where all takes so many times as long as the cost model says."""
        return replace(self, pace=self.pace.times(slowness))

    def step_seconds(self, batch: Batch, running: Mapping[int, Sequence]) -> float:
        """What a batch adds to a round: its share of the answers of those that run, and its pieces
        of prompts."""
        rounds, asked = self.pace.round_seconds, [running[row.request] for row in batch.rows]
        pieces = [
            self.pace.piece_seconds(row.start, row.start + len(row.tokens))
            for row, one in zip(batch.rows, asked, strict=True)
            if row.start < len(one.request.prompt) or len(row.tokens) > 1
        ]
        answers, all_answers = len(asked) - len(pieces), sum(x.answering for x in running.values())
        share = answers / all_answers * rounds[all_answers] if answers and rounds else 0.0
        return share + sum(pieces)

    def check(self, new: Sequence, now: float) -> None:
        """Raises Unattainable where a request's needs could not be met even if it were alone."""
        self._check_quality(new.request.min_quality)
        if math.isinf(new.deadline):
            return
        alone = self._alone_seconds(new)
        if now + alone > new.deadline:
            request, waited = new.request, now - new.arrived
            raise Unattainable(
                f"the deadline of {1e3 * (request.deadline or 0):.0f} ms cannot be met: after "
                f"{1e3 * waited:.0f} ms of waiting, {len(request.prompt)} tokens in and up to "
                f"{request.max_tokens} out would take {1e3 * alone:.0f} ms (predicted) with nobody "
                "beside them; allow more time, or ask for fewer tokens"
            )

    def choose(
        self, waiting: Iterable[Sequence], running: Iterable[Sequence], limits: Limits, now: float
    ) -> list[int]:
        """The numbers of those that enter now, in their order; where nothing runs, somebody does.
        Who runs and is late has no deadline any more that others should care for."""
        rounds = self.pace.round_seconds
        room = Room(limits.sequences, limits.pages, rounds)
        beside = [self._candidate(one, limits, now) for one in running]
        ends = room.end_seconds(beside)
        kept = (
            one if end <= one.slack else replace(one, slack=math.inf)
            for one, end in zip(beside, ends, strict=True)
        )
        asking = [self._candidate(one, limits, now) for one in waiting]
        chosen = self.policy(asking, replace(room, running=tuple(kept)))
        return chosen or ([] if beside else [asking[0].number])

    def _candidate(self, one: Sequence, limits: Limits, now: float) -> Candidate:
        seconds, rounds = self._work(one)
        pages, waited = limits.pages_of(one.size), now - one.arrived
        return Candidate(one.number, one.deadline - now, seconds, rounds, pages, waited=waited)

    def _work(self, one: Sequence) -> tuple[float, int]:
        """Seconds of its tokens that are to be computed first, and rounds behind that."""
        missing, left = len(one.tokens) - one.entered, one.size - len(one.tokens)
        if one.answering and missing <= 1:
            return 0.0, left
        return self.pace.prompt_seconds(missing), left - 1

    def _alone_seconds(self, one: Sequence) -> float:
        seconds, rounds = self._work(one)
        return seconds + rounds * (self.pace.round_seconds[1] if self.pace.round_seconds else 0.0)

    def _check_quality(self, wanted: float | None) -> None:
        keeps = self.pace.quality
        if wanted is None or (keeps is not None and wanted <= keeps):
            return
        known = "was not measured" if keeps is None else f"is predicted to be {keeps:.4g}"
        raise Unattainable(f"a quality of {wanted:g} was asked for; this plan's {known}")


FIRST_COME = Admission()


@dataclass(slots=True)
class Slowness:
    """How many times as long steps take as the cost model says, of late."""

    took: float = TRUST
    expected: float = TRUST

    def learn(self, took: float, expected: float) -> None:
        """Of one more step, in seconds."""
        self.took = MEMORY * self.took + took
        self.expected = MEMORY * self.expected + expected

    @property
    def factor(self) -> float:
        return self.took / self.expected
