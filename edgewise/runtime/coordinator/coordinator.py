"""The coordinator: sends batches round the pipeline, and hands out the tokens that come back.

A batch enters stage 0 and hops from device to device; its sampled tokens come straight back here
from the last stage. As many batches as the plan has lanes are under way at the same time, so that
every stage has one to work on; no batch waits for another.
"""

import contextlib
import logging
import time
from collections.abc import Callable, Iterator
from itertools import count

from edgewise.adapters.private import PrivateAdapter
from edgewise.errors import DeviceError, DeviceLost, DeviceTimeout, Infeasible
from edgewise.models.checkpoint import open_checkpoint
from edgewise.plans import Plan
from edgewise.runtime import messages
from edgewise.runtime.coordinator.adapters import Adapters
from edgewise.runtime.coordinator.admission import FIRST_COME, Admission
from edgewise.runtime.coordinator.checks import check_request, check_votes
from edgewise.runtime.coordinator.entering import back_of, seconds_for, step_of
from edgewise.runtime.coordinator.loading import OnLayer, PlanLoader
from edgewise.runtime.coordinator.scheduler import Scheduler
from edgewise.runtime.coordinator.tally import Tally
from edgewise.runtime.coordinator.workers import LOOK_SECONDS, Workers
from edgewise.runtime.engine import Request, Token, warm_up
from edgewise.runtime.events import (
    Cancelled,
    Entered,
    Event,
    Listener,
    Lost,
    PlanInUse,
    Returned,
    Submitted,
)
from edgewise.runtime.limits import limits_of
from edgewise.runtime.logs import fields
from edgewise.runtime.spans import Sampled
from edgewise.runtime.stats import Stats
from edgewise.runtime.transport import Envelope
from edgewise.specs import Workload

STEP_SECONDS = 60.0
STILL_SECONDS = 5.0  # with steps in flight, after which one of their messages is taken for lost

Replan = Callable[[Workers, Plan], Plan]

log = logging.getLogger(__name__)


class _Astray(Exception):
    """A message was lost with the connection that it was on: nobody has anything to do."""


class Coordinator:
    """The engine over workers: loads plans into them and runs requests through the last one."""

    def __init__(
        self,
        workers: Workers,
        model: str,
        plan: Plan,
        workload: Workload,
        *,
        private: PrivateAdapter | None = None,
        replan: Replan | None = None,
        admission: Callable[[Plan], Admission] = lambda plan: FIRST_COME,
        adapters: Adapters | None = None,
        step_seconds: float = STEP_SECONDS,
        on_layer: OnLayer = lambda layer: None,
    ) -> None:
        """`replan` finds another plan when a device is lost; without it, that ends everything. A
        plan's `admission` lets requests in. Raises PlanError, InputError and DeviceError."""
        self.workers, self.plan, self.workload = workers, plan, workload
        self.adapters = adapters or Adapters(workers)
        self._loader = PlanLoader(workers, model, self.adapters, private)
        self._replan, self._admission = replan, admission
        self._step_seconds, self._still_seconds = step_seconds, STILL_SECONDS
        config = open_checkpoint(model).config
        self._vocab_size, self._max_context = config.vocab_size, config.max_context
        self._scheduler = Scheduler(limits_of(workload, config.max_context))
        self.adapters.used = lambda: self._scheduler.adapters
        self._in_flight, self._listeners = dict[int, Entered](), list[Listener]()
        self._requests, self._steps = count(), count()
        self.apply(plan, on_layer)
        if self._scheduler.limits.context > 2:
            warm_up(self)
        self._tally = Tally(config.hidden_size, time.monotonic(), self.adapters.ends)
        self.listen(self._tally.listen)

    def submit(self, request: Request, since: float | None = None) -> int:
        """Queue a request that came at `since`, else now: its number. Raises PromptError."""
        check_request(request, self._scheduler.limits.context, self._vocab_size, self.plan.model)
        check_votes(request, self.adapters.votes(request.adapter))
        adapter, number = self.adapters.number(request.adapter), next(self._requests)
        at = time.monotonic() if since is None else since
        self._scheduler.submit(number, request, at, adapter)
        self._tell(Submitted(at, number, len(request.prompt)))
        return number

    def step(self) -> list[Token]:
        """Wait for the next tokens; an empty list when there is nothing to wait for. Raises
        DeviceLost where nothing can go on without a device, DeviceTimeout, DeviceError."""
        while not self.idle:
            if tokens := self.advance():
                return tokens
        return []

    def advance(self) -> list[Token]:
        """As `step`, but wait for one batch only, of which no token comes where it is a part of a
        prompt, or until something is posted: for whoever has more to see to."""
        with self._going_on():
            if late := self._end_late():
                return late
            self.enter()
            return self._tokens_of(self._next_back())
        return []

    @contextlib.contextmanager
    def _going_on(self) -> Iterator[None]:
        """Without what is lost in this block."""
        try:
            yield
        except (DeviceLost, DeviceTimeout) as lost:
            self.go_on_without(lost)
        except _Astray as astray:
            self.apply(self.plan, why=str(astray))

    def enter(self) -> None:
        """Send what may enter the pipeline now into its first stage, as `step` does: devices then
        compute while its tokens are looked at. Raises DeviceLost, DeviceTimeout."""
        self.adapters.release()
        while (batch := self._scheduler.next(time.monotonic())) is not None:
            number = next(self._steps)
            step, tokens = step_of(batch, self.workers.epoch, number)
            self._in_flight[number] = Entered(time.monotonic(), number, batch)
            self._tell(self._in_flight[number])
            self.workers.send(self.plan.stages[0].device, step, tokens)

    @property
    def idle(self) -> bool:
        """Whether there is nothing to wait for: no request, and no step of one that was cancelled,
        which takes its place in the pipeline until it is back."""
        return not (self._scheduler.waiting or self._scheduler.running or self._in_flight)

    def wait(self, seconds: float) -> None:
        """With nothing to do: at most so long, sooner when something was posted. A device that is
        lost meanwhile is gone on without."""
        with self._going_on():
            self.workers.receive(seconds)

    def drain(self) -> Iterator[Token]:
        """Let nothing enter, and give the tokens of what is in flight: then workers may be asked
        other things than steps. Tokens come before whatever is raised."""
        with self._going_on():
            while self._in_flight:
                yield from self._tokens_of(self._next_back())

    def take(self, came: Envelope) -> list[Token]:
        """The tokens in what came while workers were asked other things; `enter` goes on."""
        return self._tokens_of(back_of(came.message, self._in_flight, self.workers.epoch))

    def _end_late(self) -> list[Token]:
        """The ends of requests that have waited in vain."""
        late = self._scheduler.hopeless(now := time.monotonic()).items()
        ends = [Token(number, 0, "error", now, (), str(error)) for number, error in late]
        for token in ends:
            self._tell(token)
        return ends

    def _tokens_of(self, back: messages.Tokens | None) -> list[Token]:
        """Give the tokens of a batch, if it is one, to their requests."""
        if back is None:
            return []
        entered, now, self._waited = self._in_flight.pop(back.number), time.monotonic(), 0.0
        self._still_seconds = max(STILL_SECONDS, 2 * (now - entered.at))
        self._tell(Returned(now, entered, back.seconds, back.asked))
        for prompt in back.prompts:
            self._scheduler.scored(prompt)
        tokens = [
            self._token(sampled, back.seconds)
            for sampled in back.tokens
            if self._scheduler.is_running(sampled.request)  # else it was cancelled meanwhile
        ]
        self._scheduler.returned(entered.batch, now, failed=not back.seconds)  # in no stage
        for token in tokens:
            self._tell(token)
        return tokens

    def _token(self, sampled: Sampled, seconds: tuple[float, ...]) -> Token:
        at, request = time.monotonic(), sampled.request
        if sampled.error:
            self._scheduler.cancel(request)
            return Token(request, 0, "error", at, seconds, sampled.error)
        prompt = self._scheduler.scores(request)
        finish = self._scheduler.sampled(request, sampled.token)
        return Token(request, sampled.token, finish, at, seconds, "", sampled.score, prompt)

    def _next_back(self) -> messages.Tokens | None:
        """None where something was posted: whoever did that is not to wait for a batch."""
        in_flight = self._in_flight.values()
        allowed = seconds_for(in_flight, self._step_seconds, self._loader.read_seconds)
        while True:
            left, began = max(allowed - self._waited, 0), time.monotonic()
            envelope = self.workers.receive(min(left, LOOK_SECONDS))
            self._waited += time.monotonic() - began
            here = self._in_flight, self.workers.epoch
            if envelope and (back := back_of(envelope.message, *here)):
                return back
            self._check_still()
            if envelope and isinstance(envelope.message, messages.Wake):
                return None
            if envelope is None and left <= LOOK_SECONDS:
                late = self.workers.signs.busiest()
                raise DeviceTimeout(late, f"finished no step within {allowed:g} s, though alive")

    def _check_still(self) -> None:
        """Raise _Astray where steps in flight are nowhere; later the next time, in case they were
        on a slow link, until one is back and has shown how long that takes."""
        if self.workers.signs.still_seconds >= self._still_seconds:
            self._still_seconds *= 2
            raise _Astray("a message was lost")

    def cancel(self, request: int) -> None:
        """Forget a request; unknown ones are ignored."""
        self._scheduler.cancel(request)
        self._tell(Cancelled(time.monotonic(), request))

    # Plans

    def apply(
        self, plan: Plan, on_layer: OnLayer = lambda layer: None, *, why: str = "asked for"
    ) -> None:
        """Load a plan: layers that stay where they are keep their weights. Requests that are under
        way enter again from their first token and go on with the next one. A device that is lost
        meanwhile is gone on without. `why` another plan was looked for."""
        with self._going_on():
            self._load(plan, why, time.monotonic(), on_layer)

    def _load(
        self, plan: Plan, why: str, since: float, on_layer: OnLayer = lambda layer: None
    ) -> None:
        self.plan = plan
        self._memory = self._loader.load(plan, self.workload, on_layer)
        self._in_flight.clear()
        self._waited = 0.0  # seconds, for the batch that is back next
        limits = limits_of(self.workload, self._max_context, len(plan.stages))
        self._scheduler.restart(limits, self._admission(plan))
        now = time.monotonic()
        self._tell(PlanInUse(now, plan, self.workers.cluster.source, why, now - since))
        log.info(fields("plan_in_use", why=why, seconds=now - since, plan=plan))

    def go_on_without(self, lost: DeviceError) -> None:
        """Another plan on the devices that are left, where the one so far needs others; the
        source's own worker is started again. Nothing happens to requests where the device held
        nothing. Raises what was lost where nobody plans anew, and what planning raises: then
        requests wait for the next `apply`."""
        if self._replan is None:
            raise lost
        since, why = time.monotonic(), str(lost)
        source, held = self.workers.cluster.source, False
        while True:
            log.warning(fields("device_lost", device=lost.device, why=lost))
            self._tell(Lost(time.monotonic(), lost.device, str(lost)))
            held = held or lost.device in (source, *self.plan.devices)
            try:
                if held:
                    self.workers.epoch += 1  # what steps so far come to, or fail at, is past
                if lost.device == source:
                    self.workers.restart(lost.device)
                else:
                    self.workers.remove(lost.device)
                if held:
                    if not set(self.plan.devices) <= set(self.workers.names):
                        self.plan = self._replan(self.workers, self.plan)
                    self._load(self.plan, why, since)
                return
            except (DeviceLost, DeviceTimeout) as another:
                lost = another
            except Infeasible as error:
                raise Infeasible(f"{lost}; {error}", error.shortage_bytes) from None

    def listen(self, listener: Listener) -> None:
        """Tell it the plan in use, and everything that happens from now on."""
        listener(PlanInUse(time.monotonic(), self.plan, self.workers.cluster.source))
        self._listeners.append(listener)

    def _tell(self, event: Event) -> None:
        for listener in self._listeners:
            listener(event)

    def stats(self) -> Stats:
        waiting, running = self._scheduler.waiting, self._scheduler.running
        return self._tally.stats(time.monotonic(), waiting, running, self._memory)

    def close(self) -> None:
        self.workers.close()
