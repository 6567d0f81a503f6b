"""The life of a model on a cluster: a loop that lets devices in, plans, and answers requests."""

import logging
import time
from collections import deque
from collections.abc import Callable, Iterable
from queue import SimpleQueue

from edgewise.errors import (
    DeviceError,
    DeviceLost,
    DeviceMemoryError,
    DeviceTimeout,
    Infeasible,
    PromptError,
)
from edgewise.hosting.choosing import Chooser
from edgewise.hosting.measured import Measured
from edgewise.hosting.pending import OnToken, Pending
from edgewise.hosting.state import Event, State, described, device_states
from edgewise.planning import PlanResult
from edgewise.plans import Plan
from edgewise.runtime.coordinator import Coordinator
from edgewise.runtime.engine import Request, Token
from edgewise.runtime.launchers import Launcher
from edgewise.runtime.messages import Joined
from edgewise.runtime.workers import Workers
from edgewise.specs import Workload

LOOK_SECONDS = 0.5  # how old what is seen may be
EVENTS = 50  # that are remembered
TRIES = 5  # of a plan, where each time a device is lost

# Nothing runs then. A worker refuses a plan where its machine has less memory than it had.
NO_PLAN = (Infeasible, DeviceMemoryError)

_logger = logging.getLogger(__name__)


class Host:
    """Answers requests with one model as well as the devices that there are allow. `run` is its
    life, in one thread; `ask`, `stop`, `state` and `stats` are for any other."""

    def __init__(
        self,
        model: str,
        workers: Workers,
        launcher: Launcher,
        measured: Measured,
        chooser: Chooser,
        workload: Workload,
        on_event: Callable[[Event], None] = lambda event: None,
    ) -> None:
        """Devices that join get their workers from `launcher`."""
        self._on_event = on_event
        self._model, self._workers, self._launcher = model, workers, launcher
        self._measured, self._chooser, self._workload = measured, chooser, workload
        self._engine: Coordinator | None = None
        self._stalled = "starting"  # why nothing can be computed, "" where it can
        self._planned_for = set(workers.names)
        self._reconsider = False  # once no request is under way, any scheme may be chosen
        self._new: SimpleQueue[Pending] = SimpleQueue()
        self._asked: list[Pending] = []
        self._events: deque[Event] = deque(maxlen=EVENTS)
        self._began = time.monotonic()
        self._stopping, self._drained = False, True
        self._status("starting")

    # For any thread

    def ask(
        self, request: Request, on_token: OnToken, seconds: float = float("inf")
    ) -> Callable[[], None]:
        """Have a request answered: `on_token` gets its tokens, in the host's thread. One that has
        to wait for devices longer than `seconds` ends with an error. Returns what cancels it."""
        now, longest = time.monotonic(), min(seconds, request.deadline or seconds)
        asked = Pending(request, on_token, now, now + longest)
        self._new.put(asked)
        self._workers.wake()

        def cancel() -> None:
            asked.cancelled = True
            self._workers.wake()

        return cancel

    def stop(self, *, drain: bool) -> None:
        """End `run`; with `drain` once all requests are answered."""
        self._drained, self._stopping = drain, True
        self._workers.wake()

    # The loop

    def run(self) -> None:
        """Until told to stop. Raises what nobody can go on from."""
        self._plan_anew("the model fits")
        while not self._stopping or (self._drained and self._asked):
            self._let_devices_in()
            self._take_requests()
            self._give(self._next_tokens())
            status = self._stalled or "serving"
            if time.monotonic() >= self._look_again or self.state.status != status:
                self._status(status)

    def _next_tokens(self) -> list[Token]:
        engine = self._engine
        try:
            if engine is None or self._stalled:
                self._workers.receive(LOOK_SECONDS)
                return []
            if engine.idle:
                if self._reconsider:
                    self._improve(keep=False)
                engine.wait(LOOK_SECONDS)
                return []
            return engine.step()
        except NO_PLAN as reason:
            self._stall(reason)
        except (DeviceLost, DeviceTimeout) as lost:
            self._go_on_without(lost)
        return []

    # Requests

    def _take_requests(self) -> None:
        """New ones to the engine, as soon as there is one; forget those that were cancelled, or
        have waited for devices too long."""
        while not self._new.empty():
            self._asked.append(self._new.get())
        now = time.monotonic()
        for asked in list(self._asked):
            if asked.cancelled:
                self._forget(asked)
            elif self._stalled and now > asked.until:
                self._end(asked, f"no answer in time: {self._stalled}")
            elif asked.number is None and self._engine is not None:
                try:
                    asked.number = self._engine.submit(asked.request, asked.since)
                except PromptError as error:
                    self._end(asked, str(error))

    def _end(self, asked: Pending, why: str) -> None:
        asked.on_token(Token(asked.number or 0, 0, "error", time.monotonic(), (), why))
        self._forget(asked)

    def _forget(self, asked: Pending) -> None:
        self._asked.remove(asked)
        if asked.number is not None and self._engine is not None:
            self._engine.cancel(asked.number)

    def _give(self, tokens: Iterable[Token]) -> None:
        by_number = {asked.number: asked for asked in self._asked}
        for token in tokens:
            asked = by_number.get(token.request)
            if asked is not None and not asked.cancelled:
                asked.on_token(token)
                if token.finish is not None:
                    self._asked.remove(asked)

    # Devices

    def _let_devices_in(self) -> None:
        """Those that joined, when no step is under way."""
        if not self._workers.arrivals:
            return
        if self._engine is not None and not self._stalled:
            try:
                self._give(self._engine.drain())
            except NO_PLAN as reason:
                self._stall(reason)
        while self._workers.arrivals:
            self._let_in(self._workers.arrivals.popleft())
        if self._engine is None or self._stalled:
            self._plan_anew("enough devices are there")
        else:
            self._improve(keep=not self._engine.idle)

    def _let_in(self, joined: Joined) -> None:
        name = joined.device.name
        if name in self._workers.names:  # it was quicker back than its loss was noticed
            self._go_on_without(DeviceLost(name, "joined again"))
        self._measured.forget(name)  # another device may come by the name of one that left
        try:
            self._workers.admit(joined, self._launcher)
            self._planned_for.add(name)
            self._say(f"'{name}' joined")
        except (DeviceLost, DeviceTimeout) as lost:
            self._go_on_without(lost)

    def _improve(self, *, keep: bool) -> None:
        """Change to a better plan where there is one that is worth it."""
        assert self._engine is not None
        self._reconsider = keep
        try:
            before = self._engine.plan
            better, why = self._chooser.better(before, keep=keep)
            if better is None:
                self._say(f"the plan stays: {why}")
                return
            try:
                self._apply(better, why)
            except DeviceMemoryError as reason:
                self._say(f"the plan stays: {reason}")
                self._engine.apply(before, why="the other one did not fit")
        except Infeasible as reason:
            self._say(f"the plan stays: {reason}")
        except (DeviceLost, DeviceTimeout) as lost:
            self._go_on_without(lost)

    def _plan_anew(self, why: str) -> None:
        """Where nothing runs: as soon as the devices suffice."""
        for _ in range(TRIES):
            try:
                if self._engine is None:
                    self._start(self._chooser.anew(), why)
                else:
                    self._apply(self._replan(self._workers, self._engine.plan), why)
                self._stalled = ""
                return
            except NO_PLAN as reason:
                self._stall(reason)
                return
            except (DeviceLost, DeviceTimeout) as lost:
                self._go_on_without(lost)  # and plan with those that are left
        self._stall(Infeasible(f"devices were lost {TRIES} times while they were planned with"))

    def _start(self, chosen: PlanResult, why: str) -> None:
        self._status("loading")
        what = self._workers, self._model, chosen.plan, self._workload
        self._engine = Coordinator(*what, replan=self._replan, admission=self._chooser.admission)
        self._say(f"{described(chosen.plan)}: {why}")

    def _apply(self, chosen: PlanResult, why: str) -> None:
        assert self._engine is not None
        self._status("loading")
        self._engine.apply(chosen.plan, why=why)
        self._planned_for = set(self._workers.names)
        self._say(f"{described(chosen.plan)}: {why}")

    def _replan(self, workers: Workers, plan: Plan) -> PlanResult:
        """On the devices that are left or came back. Called by the engine, too."""
        lost = self._planned_for - set(workers.names)
        self._planned_for = set(workers.names)
        why = f"without {', '.join(sorted(lost))}" if lost else "the devices suffice again"
        try:
            chosen = self._chooser.keeping(plan)
        except Infeasible:
            chosen = self._chooser.anew()
        self._say(f"{described(chosen.plan)}: {why}")
        return chosen

    def _go_on_without(self, lost: DeviceError) -> None:
        """A device is lost where no engine sees to it."""
        self._say(str(lost))
        try:
            if self._engine is not None:
                self._engine.go_on_without(lost)
                return
            if lost.device == self._workers.cluster.source:
                self._workers.restart(lost.device)
            else:
                self._workers.remove(lost.device)
        except NO_PLAN as reason:
            self._stall(reason)
        except (DeviceLost, DeviceTimeout) as another:
            self._go_on_without(another)

    def _stall(self, reason: Exception) -> None:
        text = f"waiting for devices: {reason}"
        if text != self._stalled:
            self._say(text)
        self._stalled = text

    # What is seen

    def _say(self, text: str) -> None:
        _logger.info("%s", text)
        self._events.append(Event(time.monotonic() - self._began, text))
        self._on_event(self._events[-1])

    def _status(self, status: str) -> None:
        self.stats = self._engine.stats() if self._engine is not None else None
        self.state = self._state(status)
        self._look_again = time.monotonic() + LOOK_SECONDS

    def _state(self, status: str) -> State:
        engine, stats = self._engine, self.stats
        plan = engine.plan if engine is not None and not self._stalled else None
        return State(
            model=self._model,
            status=status,
            ready=status == "serving",
            devices=device_states(self._workers.cluster, plan, stats.memory_bytes if stats else {}),
            schemes=tuple(dict.fromkeys(plan.schemes)) if plan else (),
            waiting=sum(x.number is None for x in self._asked) + (stats.waiting if stats else 0),
            running=stats.running if stats else 0,
            tokens=stats.new_tokens if stats else 0,
            events=tuple(self._events),
        )
