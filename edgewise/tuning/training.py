"""The loop: a batch forward to a window's exit, backward to where the window begins, a step."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from edgewise.errors import NonFinite
from edgewise.tuning.lessons import Lesson, LessonBatch, drawn
from edgewise.tuning.model import Tunable, Window
from edgewise.tuning.recipe import Recipe

WARM_UP = 0.03  # share of a window's steps in which the rate rises
LONGEST_GRADIENT = 1.0


@dataclass(frozen=True, slots=True)
class TrainingStep:
    """What a step did: the window that it trained, and nats per token that was to be learned."""

    number: int
    window: int
    loss: float
    tokens: int


def loss_of(model: Tunable, window: Window, batch: LessonBatch) -> Tensor:
    """Nats per token that is learned, by a window's exit."""
    states = model.states(batch.tokens, window)
    logits = model.logits(states[:, :-1][batch.learned], window)
    return F.cross_entropy(logits.float(), batch.targets)


class Training:
    """A model that is being adapted; `done` steps of the recipe's are. Each window has an optimizer
    of its own, AdamW (Loshchilov and Hutter 2019)."""

    def __init__(self, model: Tunable, recipe: Recipe, lessons: Sequence[Lesson]) -> None:
        self.model, self.recipe, self.lessons, self.done = model, recipe, lessons, 0
        self.optimizers = [
            torch.optim.AdamW(model.trained(window), lr=recipe.rate, weight_decay=0.0)
            for window in model.windows
        ]

    def step(self) -> TrainingStep:
        """Raises NonFinite where the loss is no number any more."""
        recipe, number = self.recipe, self.done
        index = recipe.window_at(number, len(self.model.windows))
        window, optimizer = self.model.windows[index], self.optimizers[index]
        batch = drawn(self.lessons, recipe.batch, number, recipe.seed)
        loss = loss_of(self.model, window, batch)
        if not math.isfinite(loss.item()):
            raise NonFinite(
                f"the loss was {loss.item()} at step {number} (blocks {window.first}-"
                f"{window.end - 1}): most likely the rate, {recipe.rate:g}, is too high; what was "
                "learned until the last checkpoint is kept"
            )
        loss.backward()
        torch.nn.utils.clip_grad_norm_(self.model.trained(window), LONGEST_GRADIENT)
        for group in optimizer.param_groups:
            group["lr"] = recipe.rate * self._warmth(index)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        self.done += 1
        return TrainingStep(number, index, loss.item(), len(batch.targets))

    def _warmth(self, index: int) -> float:
        """Of the rate, how much a window's next step takes."""
        steps = self.recipe.steps / len(self.model.windows) * WARM_UP
        state = self.optimizers[index].state.values()
        taken = next((int(x["step"]) for x in state), 0)
        return min((taken + 1) / max(steps, 1.0), 1.0)
