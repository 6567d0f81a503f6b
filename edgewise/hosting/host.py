"""The life of a model on a cluster: a loop that lets devices in, plans, and answers requests."""

import contextlib
import time
from collections.abc import Callable, Iterator

from edgewise.adapters.private import PrivateAdapter
from edgewise.errors import DeviceError, DeviceLost, DeviceMemoryError, DeviceTimeout, Infeasible
from edgewise.hosting.choosing import Chooser
from edgewise.hosting.measured import Measured
from edgewise.hosting.overview import Overview
from edgewise.hosting.pending import OnToken
from edgewise.hosting.requests import Requests
from edgewise.hosting.slowness import Watch
from edgewise.hosting.swaps import Swaps, beside_requests
from edgewise.planning import PlanResult
from edgewise.plans import Plan
from edgewise.runtime.coordinator.adapters import Adapters
from edgewise.runtime.coordinator.coordinator import Coordinator
from edgewise.runtime.coordinator.replanning import keep_spare
from edgewise.runtime.coordinator.workers import Workers
from edgewise.runtime.engine import Request, Token
from edgewise.runtime.events import Event, Lost, PlanInUse
from edgewise.runtime.launchers import Launcher
from edgewise.runtime.messages import Joined
from edgewise.runtime.transport import Envelope
from edgewise.specs import Workload

LOOK_SECONDS = 0.5  # how old what is seen may be
TRIES = 5  # of a plan, where each time a device is lost

# Nothing runs then. A worker refuses a plan where its machine has less memory than it had.
NO_PLAN = (Infeasible, DeviceMemoryError)


class Host:
    """Answers requests with one model as well as the devices that there are allow. `run` is its
    life, in one thread; what else is public is for any other."""

    def __init__(
        self,
        model: str,
        workers: Workers,
        launcher: Launcher,
        measured: Measured,
        chooser: Chooser,
        workload: Workload,
        overview: Overview,
        adapters: Adapters | None = None,
        private: PrivateAdapter | None = None,
    ) -> None:
        """Devices that join get workers from `launcher`. A `private` adapter is in all answers."""
        self._overview, self._private = overview, private
        self._model, self._workers, self._launcher = model, workers, launcher
        self._measured, self._chooser, self._workload = measured, chooser, workload
        self._engine: Coordinator | None = None
        self._stalled = "starting"  # why nothing can be computed, "" where it can
        self._replanning = ""  # likewise, while the engine is without a plan that it will have
        self._planned_for = set(workers.names)
        self._reconsider = False  # once no request is under way, any scheme may be chosen
        self._requests = Requests(workers.wake)
        self.swaps = Swaps(adapters or Adapters(workers), workers, overview.say)
        self._watch = Watch(chooser.stage_seconds)
        self._stopping, self._drained = False, True
        measured.say = self._status
        self._status("starting")

    def ask(
        self, request: Request, on_token: OnToken, seconds: float = float("inf")
    ) -> Callable[[], None]:
        """Have a request answered: `on_token` gets its tokens, in the host's thread. One that has
        to wait for devices longer than `seconds` ends with an error. Returns what cancels it."""
        return self._requests.ask(request, on_token, seconds)

    @property
    def without_plan(self) -> str:
        """Why whoever asks now is not answered before there is another plan, "" where one is in
        use: for any thread."""
        return self._stalled or self._replanning

    def stop(self, *, drain: bool) -> bool:
        """End `run`; with `drain` once all requests are answered. Whether it looks up soon: not
        while it measures and plans for the first time."""
        self._drained, self._stopping = drain, True
        self._workers.wake()
        return self._engine is not None

    def run(self) -> None:
        """Until told to stop. Raises what nobody can go on from; who waits then is told."""
        with self._requests.answering():
            self._plan_anew("the model fits")
            while not self._stopping or (self._drained and self._requests.open):
                self._let_devices_in()
                self._requests.take(self._engine, self._stalled)  # whose wake was not waited for
                self.swaps.take(not self._stalled, self._going_on, self._go_on)
                tokens = self._next_tokens()
                self._requests.take(self._engine, self._stalled)
                self._enter()
                self._requests.give(tokens)
                status = self._stalled or "serving"
                if time.monotonic() >= self._look_again or self.state.status != status:
                    self._status(status)
                    self._look_at_slow_devices()

    def _next_tokens(self) -> list[Token]:
        engine, tokens = self._engine, list[Token]()
        with self._going_on():
            if engine is None or self._stalled:
                self._workers.receive(LOOK_SECONDS)
            elif not engine.idle:
                tokens = engine.advance()
            elif self._reconsider:
                self._improve(keep=False)
            else:
                engine.wait(LOOK_SECONDS)
        return tokens

    def _enter(self) -> None:
        """Devices compute the next step while the tokens of the last one are handed over."""
        if self._engine is not None and not self._stalled:
            with self._going_on():
                self._engine.enter()

    @contextlib.contextmanager
    def _going_on(self) -> Iterator[None]:
        """Without what is lost in this block, or until there is a plan again."""
        try:
            yield
        except NO_PLAN as reason:
            self._stall(reason)
        except (DeviceLost, DeviceTimeout) as lost:
            self._go_on_without(lost)

    def _let_devices_in(self) -> None:
        """Those that joined. Plans change, and links are measured, when no step is under way."""
        if not self._workers.arrivals:
            return
        while self._workers.arrivals:
            self._let_in(self._workers.arrivals.popleft())
        self._watch.forget()  # steps of meanwhile: a device may share a machine with another
        self._improve_between_steps()
        if self._engine is None or self._stalled:
            self._plan_anew("enough devices are there")

    def _improve_between_steps(self) -> None:
        """Where there is a plan, once no step is under way: workers are asked other things."""
        if self._engine is not None and not self._stalled:
            with self._going_on():
                self._requests.give(self._engine.drain())
        if self._engine is not None and not self._stalled:
            self._improve(keep=not self._engine.idle)

    def _look_at_slow_devices(self) -> None:
        """Plan without counting on what a device was measured to do, while it does not."""
        name = None if self._stalled else self._watch.find(time.monotonic())
        if name is None:
            return
        self._measured.slow = self._watch.factors
        self._overview.say(self._watch.text(name))
        self._improve_between_steps()
        self._watch.forget()

    def _let_in(self, joined: Joined) -> None:
        name = joined.device.name
        if name in self._workers.names:  # it was quicker back than its loss was noticed
            self._go_on_without(DeviceLost(name, "joined again"))
        self._watch.drop(name)  # another device may come by the name of one that left
        self._measured.slow = self._watch.factors
        self._measured.forget(name)
        try:
            with beside_requests(self._workers, self._go_on):
                self._workers.admit(joined, self._launcher)
                self._planned_for.add(name)
                self._overview.say(f"'{name}' joined")
                if self._engine is not None:
                    plan = self._engine.plan  # which is looked for first where nothing runs
                    more = plan.schemes if self._stalled else self._chooser.schemes(plan)
                    self._measured.measure_layers([name], dict.fromkeys(more))
        except DeviceError as lost:
            if lost.device != name and not isinstance(lost, DeviceLost | DeviceTimeout):
                raise
            self._go_on_without(lost)  # whatever failed there, others are answered

    def _go_on(self, came: Envelope) -> None:
        """With requests, while workers are asked this and that."""
        if self._engine is None or self._stalled:
            return
        self._requests.take(self._engine, self._stalled)
        self._requests.give(self._engine.take(came))
        self._engine.enter()  # who asks sees to what is lost
        if time.monotonic() >= self._look_again:
            self._status("serving")

    def _improve(self, *, keep: bool) -> None:
        """Change to a better plan where there is one that is worth it."""
        assert self._engine is not None
        self._reconsider = keep
        with self._going_on():
            better, why = self._chooser.better(self._engine.plan, keep=keep)
            if better is None:
                self._overview.say(f"the plan stays: {why}")
            else:
                self._change(self._engine, better, why)

    def _change(self, engine: Coordinator, better: PlanResult, why: str) -> None:
        """Back to the plan so far where a machine has too little memory for the better one."""
        before = engine.plan
        try:
            self._apply(better, why)
        except DeviceMemoryError as reason:
            if not set(before.devices) <= set(self._workers.names):
                raise
            self._overview.say(f"the plan stays: {reason}")
            engine.apply(before, why="the other one did not fit")

    def _plan_anew(self, why: str) -> None:
        """Where nothing runs: as soon as the devices suffice."""
        for _ in range(TRIES):
            try:
                if self._engine is None:
                    self._start(self._chooser.anew(), why)
                else:
                    self._apply(self._chooser.like(self._engine.plan), why)
                return
            except NO_PLAN as reason:
                self._stall(reason)
                return
            except DeviceError as lost:
                gone = isinstance(lost, DeviceLost | DeviceTimeout)
                if lost.device == self._workers.cluster.source and not gone:
                    raise  # what fails there fails again
                self._go_on_without(lost)  # and plan with those that are left
        self._stall(Infeasible(f"devices were lost {TRIES} times while they were planned with"))

    def _start(self, chosen: PlanResult, why: str) -> None:
        self._status("loading")
        what = self._workers, self._model, chosen.plan, self._workload
        self._engine = Coordinator(
            *what, private=self._private, replan=self._replan,
            admission=self._chooser.admission, adapters=self.swaps.adapters,
        )  # fmt: skip
        keep_spare(self._engine)
        self._engine.listen(self._watch.listen)
        self._engine.listen(self._note)
        self._overview.chose(chosen, why)

    def _apply(self, chosen: PlanResult, why: str) -> None:
        assert self._engine is not None
        self._status("loading")
        self._engine.apply(chosen.plan, why=why)
        self._planned_for = set(self._workers.names)
        self._overview.chose(chosen, why)

    def _replan(self, workers: Workers, plan: Plan) -> Plan:
        """On the devices that are left or came back. Called by the engine, too."""
        self._replanning = "planning for the devices that are there"
        lost = self._planned_for - set(workers.names)
        self._planned_for = set(workers.names)
        why = f"without {', '.join(sorted(lost))}" if lost else "the devices suffice again"
        chosen = self._chooser.like(plan)
        self._overview.chose(chosen, why)
        return chosen.plan

    def _note(self, event: Event) -> None:
        if isinstance(event, PlanInUse):
            self._stalled = self._replanning = ""
        elif isinstance(event, Lost):
            self._overview.say(event.why)

    def _go_on_without(self, lost: DeviceError) -> None:
        """A device is lost where no engine sees to it."""
        source, workers = self._workers.cluster.source, self._workers
        try:
            if self._engine is not None:
                self._engine.go_on_without(lost)
            else:
                self._overview.say(str(lost))
                (workers.restart if lost.device == source else workers.remove)(lost.device)
        except NO_PLAN as reason:
            self._stall(reason)
        except (DeviceLost, DeviceTimeout) as another:
            self._go_on_without(another)

    def _stall(self, reason: Exception) -> None:
        text = f"waiting for devices: {reason}"
        if text != self._stalled:
            self._overview.say(text)
        self._stalled, self._replanning = text, ""

    def _status(self, status: str) -> None:
        engine, cluster = self._engine, self._workers.cluster
        self.stats = engine.stats() if engine is not None else None
        plan = engine.plan if engine is not None and not self._stalled else None
        waiting = self._requests.unknown
        self.state = self._overview.state(
            status, cluster, self._measured.links, plan, self.stats, waiting
        )
        self._look_again = time.monotonic() + LOOK_SECONDS
