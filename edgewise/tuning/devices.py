"""A training whose windows are on several devices.

A batch enters the device of the first window; each passes on what the model as it is makes of it.
A window learns from its batches in the same order as on one device, so its losses are the same.
"""

import time
from collections.abc import Callable, Iterator, Sequence

from torch import Tensor

from edgewise.errors import DeviceTimeout
from edgewise.runtime.workers import Workers
from edgewise.tuning import messages
from edgewise.tuning.judging import Score, Verdict, batches_of
from edgewise.tuning.lessons import Lesson, drawn
from edgewise.tuning.model import Window
from edgewise.tuning.placing import WindowCost, WindowPlace
from edgewise.tuning.recipe import Recipe, Visit
from edgewise.tuning.training import TrainingStep

PROGRAM = "edgewise.tuning.worker"
LOAD_SECONDS = 600.0
ANSWER_SECONDS = 600.0  # a device that hangs is noticed by its silence, much earlier


def rehearse(
    workers: Workers,
    model: str,
    scheme: str,
    recipe: Recipe,
    window: Window,
    batch: Sequence[Lesson],
    on_device: Callable[[str], None] = lambda name: None,
) -> dict[str, WindowCost]:
    """What a window costs each device, measured one after the other."""
    costs = {}
    for name in workers.names:
        asked = messages.Rehearse(model, scheme, recipe, window, tuple(batch))
        said = workers.call(name, asked, messages.Rehearsed, LOAD_SECONDS)
        costs[name] = WindowCost(
            said.plain_seconds, said.step_seconds, said.window_bytes + said.learned_bytes,
            said.head_bytes, said.kept_bytes,
        )  # fmt: skip
        on_device(name)
    return costs


class TrainingOnDevices:
    """As `Training`, on devices; `done` steps were given back."""

    def __init__(
        self,
        workers: Workers,
        places: Sequence[WindowPlace],
        model: str,
        scheme: str,
        recipe: Recipe,
        windows: Sequence[Window],
        lessons: Sequence[Lesson],
    ) -> None:
        self.recipe, self.windows, self.lessons, self.done = recipe, tuple(windows), lessons, 0
        self._workers, self._places = workers, tuple(places)
        self._visits: Iterator[Visit] | None = None
        self._sent = 0  # steps that devices were told to do
        self._arrived: dict[int, TrainingStep] = {}
        onward = [*(placed.device for placed in places[1:]), ""]
        for placed, after in zip(places, onward, strict=True):
            mine = tuple(range(placed.first, placed.end))
            told = messages.Hold(model, scheme, recipe, self.windows, mine, after)
            workers.send(placed.device, told)
        workers.collect(messages.Held, self._devices, LOAD_SECONDS)

    @property
    def _devices(self) -> list[str]:
        return [placed.device for placed in self._places]

    def step(self) -> TrainingStep:
        """The next step's outcome, while devices are at later ones. Raises NonFinite, DeviceLost,
        DeviceTimeout."""
        self._send_ahead()
        self._wait_for(self.done)
        step = self._arrived.pop(self.done)
        self.done += 1
        return step

    def _send_ahead(self) -> None:
        """Have every device something to do: a batch each, and one that is under way."""
        if self._visits is None:
            self._visits, self._sent = self.recipe.visits(self.done, len(self.windows)), self.done
        ahead = (len(self._places) + 1) * len(self.windows)
        while self._sent < min(self.done + ahead, self.recipe.steps):
            visit = next(self._visits)
            batch = drawn(self.lessons, self.recipe.batch, visit.batch, self.recipe.seed)
            told = messages.Learn(visit.first_step, visit.windows, tuple(batch))
            self._workers.send(self._devices[0], told)
            self._sent += len(visit.windows)

    def _wait_for(self, number: int) -> None:
        deadline = time.monotonic() + ANSWER_SECONDS
        while number not in self._arrived:
            envelope = self._workers.receive(max(deadline - time.monotonic(), 0))
            if envelope is None:
                who = self._workers.busiest()
                raise DeviceTimeout(who, f"has not done step {number} in {ANSWER_SECONDS:g} s")
            if isinstance(said := envelope.message, messages.Learned):
                step = TrainingStep(said.step, said.window, said.loss, said.tokens)
                self._arrived[said.step] = step

    def state(self) -> tuple[int, dict[str, Tensor]]:
        """Steps that devices were told to do, those too that `step` has not given back yet, and
        what they made."""
        for number in range(self.done, self._sent):
            self._wait_for(number)
        tensors = dict[str, Tensor]()
        for name in self._devices:
            self._workers.send(name, messages.Give())
            tensors |= self._received(name)
        return max(self._sent, self.done), tensors

    def _received(self, name: str) -> dict[str, Tensor]:
        tensors, deadline = dict[str, Tensor](), time.monotonic() + ANSWER_SECONDS
        while envelope := self._workers.receive(max(deadline - time.monotonic(), 0)):
            if isinstance(envelope.message, messages.GaveAll):
                return tensors
            if isinstance(envelope.message, messages.Given) and envelope.tensor is not None:
                tensors[envelope.message.name] = envelope.tensor.clone()
        raise DeviceTimeout(name, f"has not said what it learned in {ANSWER_SECONDS:g} s")

    def resume(self, done: int, tensors: dict[str, Tensor]) -> None:
        """Go on from a state, wherever its windows were then."""
        for placed in self._places:
            for name, tensor in tensors.items():
                if placed.first <= int(name.partition(".")[0]) < placed.end:
                    self._workers.send(placed.device, messages.Given(name), tensor)
            self._workers.send(placed.device, messages.GaveAll())
        self._workers.collect(messages.GaveAll, self._devices, ANSWER_SECONDS)
        self.done, self._visits = done, None

    def judge(self, lessons: Sequence[Lesson]) -> dict[str, Verdict]:
        """Every exit alone: votes need them all in one place."""
        for number in range(self.done, self._sent):
            self._wait_for(number)
        every, scores = tuple(range(len(self.windows))), [Score() for _ in self.windows]
        for number, batch in enumerate(batches_of(lessons)):
            told = messages.Learn(number, every, tuple(batch), judged=True)
            self._workers.send(self._devices[0], told)
            for said in self._judgements(len(every)):
                scores[said.window] += said.score
        return {
            f"exit {window.end}": total.verdict(lessons)
            for window, total in zip(self.windows, scores, strict=True)
        }

    def _judgements(self, count: int) -> Iterator[messages.Judged]:
        deadline = time.monotonic() + ANSWER_SECONDS
        while count:
            envelope = self._workers.receive(max(deadline - time.monotonic(), 0))
            if envelope is None:
                raise DeviceTimeout(self._workers.busiest(), "has not judged what was learned")
            if isinstance(envelope.message, messages.Judged):
                count -= 1
                yield envelope.message
