"""A training whose windows are on several devices.

A batch enters the device of the first window; each passes on what the model as it is makes of it.
A window learns from its batches in the same order as on one device, so its losses are the same.
"""

import time
from collections.abc import Callable, Iterator, Sequence
from typing import TypeVar

from torch import Tensor

from edgewise.errors import DeviceError, DeviceLost, DeviceTimeout
from edgewise.models.checkpoint import open_checkpoint
from edgewise.models.shape import ModelShape
from edgewise.runtime.coordinator.workers import Workers
from edgewise.runtime.messages import Fetch, Message
from edgewise.runtime.transport import Envelope
from edgewise.schemes import get_scheme
from edgewise.tuning import messages
from edgewise.tuning.judging import ExitScore, Verdict, batches_of
from edgewise.tuning.lessons import Lesson, drawn, longest_of
from edgewise.tuning.loading import layers_of
from edgewise.tuning.model import Window
from edgewise.tuning.placing import WindowCost, WindowPlace
from edgewise.tuning.recipe import Recipe, Visit
from edgewise.tuning.training import TrainingStep
from edgewise.tuning.weights import WeightSource

Result = TypeVar("Result")

LOAD_SECONDS = 600.0  # between two signs that layers come
MOST_LOSSES = 10  # one after the other, without a step in between
ANSWER_SECONDS = 600.0  # between two answers; a device that hangs is noticed much earlier
ANSWERS = messages.Learned | messages.Judged | messages.Given | messages.GaveAll


def rehearse(
    workers: Workers,
    model: str,
    scheme: str,
    recipe: Recipe,
    window: Window,
    lessons: Sequence[Lesson],
    on_device: Callable[[str], None] = lambda name: None,
) -> dict[str, WindowCost]:
    """What a window costs each device, measured one after the other, by the lengths of a batch of
    the longest lessons: what they say goes to none. Raises ModelError, DeviceError."""
    opened = open_checkpoint(model)
    shape, spec, longest = ModelShape.of(opened), opened.spec, longest_of(lessons, recipe.batch)
    blank = tuple(Lesson((0,) * len(lesson.tokens), lesson.first) for lesson in longest)
    embedding = spec.layers[0].weight_bytes(get_scheme(scheme))
    embedding -= spec.shared_bytes((scheme,) * spec.num_layers)
    costs = {}
    for name in workers.names:
        asked = messages.Rehearse(shape.to_json(), scheme, recipe, window, blank)
        said = workers.call(name, asked, messages.Rehearsed, LOAD_SECONDS)
        costs[name] = WindowCost(
            said.plain_seconds, said.step_seconds, said.window_bytes + said.learned_bytes,
            said.head_bytes, said.kept_bytes, embedding,
        )  # fmt: skip
        on_device(name)
    return costs


class TrainingOnDevices:
    """As `Training`, on devices; `done` steps were given back. `places` says where windows can be,
    of the devices that are there. One that is lost is gone on without, from the last `state`: with
    the same losses, since what a window learns does not depend on where it is."""

    def __init__(
        self,
        workers: Workers,
        places: Callable[[Workers], Sequence[WindowPlace]],
        model: str,
        scheme: str,
        recipe: Recipe,
        windows: Sequence[Window],
        lessons: Sequence[Lesson],
        on_loss: Callable[[DeviceError], None] = lambda lost: None,
    ) -> None:
        self.recipe, self.windows, self.lessons, self.done = recipe, tuple(windows), lessons, 0
        self.places = tuple[WindowPlace, ...]()
        self._workers, self._find_places, self._on_loss = workers, places, on_loss
        self._weights = WeightSource(workers, model, scheme)
        self._kept: tuple[int, dict[str, Tensor]] = 0, {}  # the last state
        self._visits: Iterator[Visit] | None = None
        self._sent, self._pending = 0, set[int]()  # steps that devices were told to do, are at
        self._arrived: dict[int, TrainingStep] = {}
        self._losses = 0  # since a step was given back
        try:
            self._hold()
        except (DeviceLost, DeviceTimeout) as lost:
            self._go_on_without(lost)

    def _hold(self) -> None:
        """Have the devices that are there hold the windows, as they are before they learn."""
        workers, self.places = self._workers, tuple(self._find_places(self._workers))
        workers.epoch += 1
        told = self._told(workers.epoch)
        for device, message in told.items():
            workers.send(device, message)
        self._wait_until_held(set(told), workers.epoch)

    def _wait_until_held(self, missing: set[str], epoch: int) -> None:
        """Those without the model ask for their layers meanwhile."""
        while missing:
            envelope = self._workers.receive(LOAD_SECONDS)
            if envelope is None:
                raise DeviceTimeout(min(missing), f"loaded nothing for {LOAD_SECONDS:g} s")
            if isinstance(envelope.message, Fetch):
                self._weights.send_piece(envelope.sender, envelope.message)
            elif envelope.message == messages.Held(epoch):
                missing.discard(envelope.sender)

    def _told(self, epoch: int) -> dict[str, Message]:
        """What devices are to hold."""
        told, onward = dict[str, Message](), [*self._devices[1:], ""]
        for placed, after in zip(self.places, onward, strict=True):
            mine = self.windows[placed.first : placed.end]
            layers = layers_of(mine, self.windows[-1].end + 2)
            what = self._weights.of(placed.device, layers), self.recipe, self.windows
            indices = tuple(range(placed.first, placed.end))
            told[placed.device] = messages.Hold(epoch, *what, indices, after)
        return told

    @property
    def _devices(self) -> list[str]:
        return [placed.device for placed in self.places]

    def step(self) -> TrainingStep:
        """The next step's outcome, while devices are at later ones. Raises NonFinite, and what
        nobody can go on from."""

        def next_step() -> TrainingStep:
            ahead = (len(self.places) + 1) * len(self.windows)  # a batch each, and one under way
            self._send(min(self.done + ahead, self.recipe.steps))
            self._wait(lambda: self.done in self._arrived)
            return self._arrived.pop(self.done)

        step = self._enduring(next_step)
        self.done, self._losses = self.done + 1, 0
        return step

    def state(self) -> tuple[int, dict[str, Tensor]]:
        """Steps that devices were told to do, those too that `step` has not given back yet, and
        what they made."""

        def settled() -> tuple[int, dict[str, Tensor]]:
            self._settle()
            tensors = dict[str, Tensor]()
            for name in self._devices:
                self._workers.send(name, messages.Give())
                tensors |= self._received(name)
            return self._sent, tensors

        self._kept = self._enduring(settled)
        return self._kept

    def resume(self, done: int, tensors: dict[str, Tensor]) -> None:
        """Go on from a state, wherever its windows were then."""
        self._kept = done, tensors
        self._enduring(lambda: self._give_back(done, tensors))
        self.done = done

    def judge(self, lessons: Sequence[Lesson]) -> dict[str, Verdict]:
        """Every exit alone: votes need them all in one place."""
        scores = self._enduring(lambda: self._scores(lessons))
        return {
            f"exit {window.end}": total.verdict(lessons)
            for window, total in zip(self.windows, scores, strict=True)
        }

    # Losses

    def _enduring(self, attempt: Callable[[], Result]) -> Result:
        """Again on the devices that are left, where one is lost; the source's worker is started
        again. Raises Infeasible where they are too few, and the loss where there is no end."""
        while True:
            try:
                return attempt()
            except (DeviceLost, DeviceTimeout) as lost:
                self._go_on_without(lost)

    def _go_on_without(self, lost: DeviceError) -> None:
        self._losses += 1
        if self._losses > MOST_LOSSES:
            raise lost
        self._on_loss(lost)
        try:
            if lost.device == self._workers.cluster.source:
                self._workers.restart(lost.device)
            else:
                self._workers.remove(lost.device)
            self._hold()
            self._give_back(*self._kept)
        except (DeviceLost, DeviceTimeout) as another:
            self._go_on_without(another)

    def _give_back(self, done: int, tensors: dict[str, Tensor]) -> None:
        """Have the devices be what they were after `done` steps; those since are done again."""
        for placed in self.places:
            for name, tensor in tensors.items():
                if placed.first <= int(name.partition(".")[0]) < placed.end:
                    self._workers.send(placed.device, messages.Given(name), tensor)
            if tensors:
                self._workers.send(placed.device, messages.GaveAll())
        if tensors:
            self._workers.collect(messages.GaveAll, self._devices, ANSWER_SECONDS)
        self._kept, self._visits, self._sent = (done, tensors), None, done
        self._pending.clear()
        self._arrived = {n: step for n, step in self._arrived.items() if n < done}

    # Talking

    def _send(self, steps: int) -> None:
        """Have devices told to do so many steps, or those of one more batch."""
        if self._visits is None:
            self._visits = self.recipe.visits(self._sent, len(self.windows))
        while self._sent < steps:
            visit = next(self._visits)
            batch = drawn(self.lessons, self.recipe.batch, visit.batch, self.recipe.seed)
            what = visit.first_step, visit.windows, tuple(batch)
            self._workers.send(self._devices[0], messages.Learn(self._workers.epoch, *what))
            self._sent += len(visit.windows)
            self._pending |= set(range(visit.first_step, self._sent))

    def _settle(self) -> None:
        """Wait until all is done that devices were told to do, and no less than was given back."""
        self._send(self.done)
        self._wait(lambda: not self._pending)

    def _wait(self, true: Callable[[], bool]) -> None:
        while not true():
            said = self._next().message
            if isinstance(said, messages.Learned) and said.epoch == self._workers.epoch:
                self._pending.discard(said.step)
                if said.step >= self.done:
                    step = TrainingStep(
                        said.step, said.window, said.loss, said.tokens, said.crossed_bytes
                    )
                    self._arrived[said.step] = step

    def _next(self) -> Envelope:
        """The next answer. Raises DeviceTimeout where none comes any more."""
        deadline = time.monotonic() + ANSWER_SECONDS
        while (envelope := self._workers.receive(max(deadline - time.monotonic(), 0))) is not None:
            if isinstance(envelope.message, ANSWERS):
                return envelope
        busiest = self._workers.signs.busiest()
        raise DeviceTimeout(busiest, f"was not done in {ANSWER_SECONDS:g} s")

    def _received(self, name: str) -> dict[str, Tensor]:
        tensors = dict[str, Tensor]()
        while True:
            envelope = self._next()
            if isinstance(envelope.message, messages.GaveAll) and envelope.sender == name:
                return tensors
            if isinstance(envelope.message, messages.Given) and envelope.tensor is not None:
                tensors[envelope.message.name] = envelope.tensor.clone()

    def _scores(self, lessons: Sequence[Lesson]) -> list[ExitScore]:
        """A batch after the other, each through all windows."""
        self._settle()
        epoch, every = self._workers.epoch, tuple(range(len(self.windows)))
        scores = [ExitScore() for _ in every]
        for number, batch in enumerate(batches_of(lessons)):
            told = messages.Learn(epoch, number, every, tuple(batch), judged=True)
            self._workers.send(self._devices[0], told)
            left = len(every)
            while left:
                said = self._next().message
                if isinstance(said, messages.Judged) and said.epoch == epoch:
                    scores[said.window] += said.score
                    left -= 1
        return scores
