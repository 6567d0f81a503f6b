"""A real run as a Chrome trace: what every request waited for, and when stages computed.

Only the coordinator's clock is read. It knows when a batch was sent and when it was back, and each
stage says how long it computed, not when: clocks of other machines may be off. So a stage's span is
drawn as early as it can have been: behind the batch's stage before, and behind the batch before on
this stage, as batches pass every stage in the order in which they were sent. In truth it was there
or later, by what links and queues took, and no span ends after its batch was back. Two stages of
one device may therefore overlap in the picture.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field

from edgewise.plans import Stage
from edgewise.runtime.engine import Token
from edgewise.runtime.events import Cancelled, Entered, Event, PlanInUse, Returned, Submitted
from edgewise.traces import TraceSpan, chrome_trace

COORDINATOR = "coordinator"


@dataclass(slots=True)
class _Course:
    """When a request reached what."""

    submitted: float
    entered: float | None = None
    first: float | None = None
    tokens: int = 0


@dataclass
class Recording:
    """Listens to a coordinator and keeps everything, so it grows with the run."""

    spans: list[TraceSpan] = field(default_factory=list)
    _courses: dict[int, _Course] = field(default_factory=dict)
    _began: float | None = None
    _stages: tuple[Stage, ...] = ()
    _free: list[float] = field(default_factory=list)  # when a stage has done the batch before

    def listen(self, event: Event) -> None:
        match event:
            case Submitted():
                self._courses[event.request] = _Course(event.at)
            case Entered():
                self._enter(event)
            case Returned():
                self._compute(event)
            case Token():
                self._token(event)
            case Cancelled():
                self._end(event.request, event.at, "cancelled")
            case PlanInUse():
                self._use(event)

    def chrome_trace(self) -> str:
        """JSON that chrome://tracing and ui.perfetto.dev open: a process per device with a thread
        per stage, one for the requests, and one for the coordinator's new plans."""
        return chrome_trace(self.spans)

    def _use(self, event: PlanInUse) -> None:
        if self._began is None:
            self._began = event.at
        self._stages, self._free = event.plan.stages, [event.at] * len(event.plan.stages)
        if event.why:
            args = {"why": event.why, "plan": str(event.plan)}
            ends = event.at - event.seconds, event.at
            self._add((COORDINATOR, "plans"), "another plan", "plan", ends, args)

    def _enter(self, event: Entered) -> None:
        for row in event.batch.rows:
            course = self._courses.get(row.request)
            if course is not None and course.entered is None:
                course.entered = event.at

    def _compute(self, event: Returned) -> None:
        rows, at = event.entered.batch.rows, event.entered.at
        phase = "prefill" if any(len(row.tokens) > 1 for row in rows) else "decode"
        args = {
            "step": event.entered.step,
            "requests": [row.request for row in rows],
            "tokens": sum(len(row.tokens) for row in rows),
        }
        for number, seconds in enumerate(event.seconds):
            stage = self._stages[number]
            start = max(at, self._free[number])
            at = self._free[number] = start + seconds
            row = stage.device, f"stage {number}, layers {stage.start}-{stage.end - 1}"
            self._add(row, phase, "compute", (start, at), args)

    def _token(self, token: Token) -> None:
        course = self._courses.get(token.request)
        if course is None:
            return
        course.tokens += not token.error
        if course.first is None:
            course.first = token.at
        if token.finish is not None:
            self._end(token.request, token.at, token.error or token.finish)

    def _end(self, request: int, at: float, finish: str) -> None:
        """Draw a request: waiting, then its prompt, then its answer, as far as it came."""
        course = self._courses.pop(request, None)
        if course is None:
            return
        args = {"request": request, "tokens": course.tokens, "finish": finish}
        turns = (
            ("waiting", course.submitted),
            ("prompt", course.entered),
            ("answer", course.first),
        )
        reached = [(name, start) for name, start in turns if start is not None]
        ends = [*(start for _, start in reached[1:]), at]
        for (name, start), end in zip(reached, ends, strict=True):
            self._add(("requests", f"request {request}"), name, "request", (start, end), args)

    def _add(
        self,
        row: tuple[str, str],
        name: str,
        category: str,
        ends: tuple[float, float],
        args: Mapping[str, object],
    ) -> None:
        began = self._began or 0.0
        self.spans.append(TraceSpan(*row, name, category, ends[0] - began, ends[1] - began, args))
