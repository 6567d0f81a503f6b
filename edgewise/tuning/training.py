"""The loop: a batch forward to a window's exit, backward to where the window begins, a step."""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from edgewise.errors import NonFinite
from edgewise.tuning.judging import Verdict, judge
from edgewise.tuning.lessons import Lesson, LessonBatch, batch_of, drawn
from edgewise.tuning.model import Tunable, Window
from edgewise.tuning.recipe import Recipe

WARM_UP = 0.03  # share of a window's steps in which the rate rises
LONGEST_GRADIENT = 1.0
MOMENTS = ("exp_avg", "exp_avg_sq", "step")


@dataclass(frozen=True, slots=True)
class TrainingStep:
    """What a step did: the window that it trained, nats per token that was to be learned, and bytes
    of numbers that crossed between a source and its blocks elsewhere."""

    number: int
    window: int
    loss: float
    tokens: int
    crossed_bytes: int = 0


def loss_of(
    model: Tunable, window: Window, batch: LessonBatch, states: Tensor, again: int = 0
) -> Tensor:
    """Nats per token that is learned, by a window's exit, from states [B, T, H] that its first
    block gets; its first `again` blocks run once more in the backward pass."""
    states = model.through(states, window.first, window.end, again)
    return model.nats(states[:, :-1][batch.learned], batch.targets, window)


class Learning:
    """The windows of a model that are here, by their place among all `windows`, with an optimizer
    each: AdamW (Loshchilov and Hutter 2019)."""

    def __init__(self, model: Tunable, recipe: Recipe, windows: Sequence[Window]) -> None:
        self.model, self.recipe, self.count = model, recipe, len(windows)
        self.windows = {i: window for i, window in enumerate(windows) if window in model.windows}
        self.optimizers = {
            index: torch.optim.AdamW(model.trained(x).values(), lr=recipe.rate, weight_decay=0.0)
            for index, x in self.windows.items()
        }

    def step(self, number: int, index: int, batch: LessonBatch, states: Tensor) -> TrainingStep:
        """Train one window by a batch, with what its first block gets. Raises NonFinite where the
        loss is no number any more."""
        window, optimizer = self.windows[index], self.optimizers[index]
        with torch.enable_grad():
            loss = loss_of(self.model, window, batch, states, self.recipe.again)
            if not math.isfinite(loss.item()):
                raise NonFinite(
                    f"the loss was {loss.item()} at step {number} (blocks {window.first}-"
                    f"{window.end - 1}): most likely the rate, {self.recipe.rate:g}, is too high: "
                    "give a lower --rate, and another --out"
                )
            loss.backward()
        torch.nn.utils.clip_grad_norm_(self.model.trained(window).values(), LONGEST_GRADIENT)
        for group in optimizer.param_groups:
            group["lr"] = self.recipe.rate * self._warmth(index)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        return TrainingStep(number, index, loss.item(), len(batch.targets))

    def _warmth(self, index: int) -> float:
        """Of the rate, how much a window's next step takes."""
        steps = self.recipe.steps / self.count * WARM_UP
        state = self.optimizers[index].state.values()
        taken = next((int(x["step"]) for x in state), 0)
        return min((taken + 1) / max(steps, 1.0), 1.0)

    def tensors(self) -> dict[str, Tensor]:
        """All that changes as it learns, by name: "WINDOW.PARAMETER", and what the optimizer
        remembers of it."""
        tensors = dict[str, Tensor]()
        for name, parameter, optimizer in self._parameters():
            tensors[name] = parameter.detach()
            for moment in MOMENTS:
                if parameter in optimizer.state:
                    tensors[f"{name}.{moment}"] = optimizer.state[parameter][moment]
        return tensors

    @torch.no_grad()
    def take(self, tensors: dict[str, Tensor]) -> None:
        """Be what `tensors` were taken from. Raises KeyError where they are of something else."""
        for name, parameter, optimizer in self._parameters():
            parameter.copy_(tensors[name])
            names = {moment: f"{name}.{moment}" for moment in MOMENTS}
            if names["step"] in tensors:
                optimizer.state[parameter] = {k: tensors[x].clone() for k, x in names.items()}

    def _parameters(self) -> Iterator[tuple[str, torch.nn.Parameter, torch.optim.Optimizer]]:
        for index, window in self.windows.items():
            for name, parameter in self.model.trained(window).items():
                yield f"{index}.{name}", parameter, self.optimizers[index]


class Training:
    """A whole model that is being adapted; `done` steps of the recipe's are."""

    def __init__(self, model: Tunable, recipe: Recipe, lessons: Sequence[Lesson]) -> None:
        self.model, self.recipe, self.lessons, self.done = model, recipe, lessons, 0
        self.learning = Learning(model, recipe, model.windows)
        self._reached = (-1, 0)  # the batch of the last step, and the first block of its window
        self._states = torch.empty(0)  # what that block got

    def step(self) -> TrainingStep:
        """Raises NonFinite."""
        recipe, number, count = self.recipe, self.done, len(self.model.windows)
        index, place = recipe.window_at(number, count), recipe.batch_at(number, count)
        batch = batch_of(drawn(self.lessons, recipe.batch, place, recipe.seed))
        states = self._before(self.model.windows[index], place, batch)
        step = self.learning.step(number, index, batch, states)
        self.done += 1
        return step

    def state(self) -> tuple[int, dict[str, Tensor]]:
        """How many steps are done, and what they made."""
        return self.done, self.learning.tensors()

    def resume(self, done: int, tensors: dict[str, Tensor]) -> None:
        """Go on from a state. Raises KeyError where it is of something else."""
        self.learning.take(tensors)
        self.done = done

    def judge(self, lessons: Sequence[Lesson]) -> dict[str, Verdict]:
        return judge(self.model, lessons)

    def _before(self, window: Window, place: int, batch: LessonBatch) -> Tensor:
        """What the model as it is computes before a window: on from where the last step was, where
        that had the same batch."""
        first, states = self._reached[1], self._states
        if self._reached[0] != place or first > window.first:
            first, states = 0, self.model.entered(batch.tokens)
        self._states = self.model.plain(states, first, window.first)
        self._reached = place, window.first
        return self._states
