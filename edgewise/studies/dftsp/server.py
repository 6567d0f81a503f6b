"""The scheduler at work on a clock of its own: what it lets in takes what the pace says.

One device or one lane: a step is through before the next one enters.
"""

from collections.abc import Callable, Sequence

from edgewise.batching import Policy
from edgewise.batching.pace import Pace
from edgewise.errors import Unattainable
from edgewise.runtime.batches import Batch
from edgewise.runtime.coordinator.admission import Admission
from edgewise.runtime.coordinator.scheduler import Scheduler
from edgewise.runtime.limits import Limits
from edgewise.studies.dftsp.traffic import Incoming, Served


def simulate_server(
    policy: Policy,
    predicted: Pace,
    limits: Limits,
    asked: Sequence[Incoming],
    slowness: Callable[[], float] = lambda: 1.0,
) -> list[Served]:
    """All requests, by a policy that expects the `predicted` pace; each step takes `slowness` times
    that. Arrivals are in order."""
    server = _Server(Scheduler(limits, Admission(policy, predicted)), predicted, asked)
    while True:
        server.take_arrivals()
        server.refuse()
        batch = server.scheduler.next(server.now)
        if batch is not None:
            server.compute(batch, slowness())
        elif not server.jump_to_next_arrival():
            return [server.served[number] for number in sorted(server.served)]


class _Server:
    def __init__(self, scheduler: Scheduler, pace: Pace, asked: Sequence[Incoming]) -> None:
        self.scheduler, self.pace, self.asked = scheduler, pace, asked
        self.now, self.arrived = 0.0, 0
        self.served: dict[int, Served] = {}

    def take_arrivals(self) -> None:
        while self.arrived < len(self.asked) and self.asked[self.arrived].at <= self.now:
            number, self.arrived = self.arrived, self.arrived + 1
            try:
                self.scheduler.submit(number, self.asked[number].request, self.asked[number].at)
            except Unattainable:
                self._end(number, refused=True)

    def refuse(self) -> None:
        for number in self.scheduler.hopeless(self.now):
            self._end(number, refused=True)

    def compute(self, batch: Batch, slowness: float) -> None:
        """A step of the pipeline; every answer's token is 0."""
        answers, seconds = 0, 0.0
        for row in batch.rows:
            end = row.start + len(row.tokens)
            if row.start < len(self.asked[row.request].request.prompt):
                seconds += self.pace.piece_seconds(row.start, end)
            else:
                answers += 1
        self.now += slowness * (seconds + self.pace.round_seconds[answers])
        for row in batch.rows:
            if row.sampling is not None and self.scheduler.sampled(row.request, 0) is not None:
                self._end(row.request, refused=False)
        self.scheduler.returned(batch, self.now)

    def jump_to_next_arrival(self) -> bool:
        if self.arrived == len(self.asked):
            return False
        self.now = self.asked[self.arrived].at
        return True

    def _end(self, number: int, *, refused: bool) -> None:
        self.served[number] = Served(self.asked[number], self.now, refused)
