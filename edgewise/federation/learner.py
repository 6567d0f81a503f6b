"""A client: a model with adapters, its own data, and what it does when it is asked."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace

import numpy as np
import torch
from torch import Tensor

from edgewise.errors import InputError
from edgewise.federating.averaging import proximal_gradient
from edgewise.federating.exchanges import (
    ADAPTER,
    LOSS,
    RIGHT,
    SAMPLES,
    UTILITY,
    Ask,
    AskedFor,
    Parcel,
)
from edgewise.federating.fed_pso import fed_pso_start, fed_pso_step
from edgewise.federating.particles import Particle
from edgewise.federating.rounds import PROXIMAL, lead
from edgewise.federating.updates import Array, Arrays
from edgewise.federation.model import SharedModel
from edgewise.federation.settings import FederatedSettings
from edgewise.federation.shared import added_by, arrays_of, first_block
from edgewise.models.checkpoint import open_checkpoint
from edgewise.tuning.judging import Verdict
from edgewise.tuning.lessons import Lesson, drawn
from edgewise.tuning.method import TuningMethod
from edgewise.tuning.recipe import Recipe
from edgewise.tuning.training import Learning

POSITION, VELOCITY, BEST, STALE = "position", "velocity", "best", "stale"
NOTHING = Parcel()


def begin(settings: FederatedSettings) -> dict[str, Array]:
    """What all begin with: it follows from the settings."""
    config = open_checkpoint(settings.model).config
    return arrays_of(added_by(config, settings.adapter, first_block(config, settings.blocks)))


class Learner:
    """`memory` is what it keeps from one answer to the next: its particle, of a swarm. Several may
    share a model while one answers at a time."""

    def __init__(
        self,
        settings: FederatedSettings,
        model: Callable[[], SharedModel],
        learned: Sequence[Lesson],
        held_out: Sequence[Lesson],
        name: str,
        memory: Parcel = NOTHING,
    ) -> None:
        self._settings, self._model, self._name = settings, model, name
        self._learned, self._held_out, self.memory = learned, held_out, memory

    def answer(self, request: Ask) -> Parcel:
        """Raises InputError where it is asked for what it does not have."""
        adapters = request.parcel.adapters
        match request.wanted:
            case AskedFor.TRAIN:
                proximal = request.parcel.numbers.get(PROXIMAL, 0.0)
                return self._trained(adapters[ADAPTER], request.round, proximal)
            case AskedFor.SWIM:
                return self._swum(adapters[ADAPTER], request.round)
            case AskedFor.SEND:
                if POSITION not in self.memory.adapters:
                    raise InputError(f"{self._name} has no particle to send")
                return Parcel({ADAPTER: self.memory.adapters[POSITION]})
            case AskedFor.JUDGE:
                utilities = {name: -self.judged(x).loss for name, x in adapters.items()}
                return Parcel({}, {**utilities, SAMPLES: float(len(self._held_out))})
            case AskedFor.LEAD:
                return lead(request.parcel, self._settings.merging)

    def judged(self, arrays: Arrays) -> Verdict:
        """By what it holds out."""
        model = self._model()
        model.put(arrays)
        return model.judge(self._held_out)

    def _trained(self, start: Arrays, number: int, proximal: float = 0.0) -> Parcel:
        arrays, loss = self._learn(start, number, proximal)
        told = {} if self._settings.epsilon > 0 else {LOSS: loss}  # it follows from the records
        return Parcel({ADAPTER: arrays}, {SAMPLES: float(len(self._learned)), **told})

    def _learn(
        self, start: Arrays, number: int, proximal: float = 0.0
    ) -> tuple[dict[str, Array], float]:
        """What it comes to from `start`, and the mean loss on the way; round `number`'s batches."""
        model, settings = self._model(), self._settings
        model.put(start)
        recipe = Recipe(
            TuningMethod.LORA, steps=settings.steps, batch=settings.batch,
            rate=settings.rate_in(number), seed=settings.seed, adapter=settings.adapter,
        )  # fmt: skip
        learning, losses = Learning(model.tunable, recipe, (model.window,)), list[float]()
        with _pulled(model.tunable.trained(model.window), start, proximal):
            for step in range((number - 1) * settings.steps, number * settings.steps):
                lessons = drawn(self._learned, settings.batch, step, settings.seed)
                losses.append(learning.step(step, 0, *model.before(lessons)).loss)
        return arrays_of(model.tunable.added), sum(losses) / len(losses)

    def _swum(self, common_best: Arrays, number: int) -> Parcel:
        """FedPSO's move, training, and what comes of it."""
        generator = np.random.default_rng([self._settings.seed, number, *self._name.encode()])
        if (particle := _particle(self.memory)) is None:
            particle = fed_pso_start(common_best, generator)
        particle = fed_pso_step(particle, common_best, generator)
        arrays, loss = self._learn(particle.position, number)
        verdict = self.judged(arrays)
        particle = particle.at(arrays).judged(-verdict.loss)
        self.memory = _kept(particle)
        numbers = {UTILITY: -verdict.loss, RIGHT: verdict.right, LOSS: loss}
        return Parcel({}, {**numbers, SAMPLES: float(len(self._learned))})


@contextmanager
def _pulled(
    trained: Mapping[str, torch.nn.Parameter], start: Arrays, strength: float
) -> Iterator[None]:
    """While it is entered, gradients are drawn towards `start` (FedProx)."""

    def hook(name: str, parameter: torch.nn.Parameter) -> Callable[[Tensor], Tensor]:
        def pull(gradient: Tensor) -> Tensor:
            now = {name: parameter.detach().numpy()}
            term = proximal_gradient(now, {name: start[name]}, strength)[name]
            return gradient + torch.from_numpy(term.copy())

        return pull

    pairs = trained.items() if strength else ()
    handles = [parameter.register_hook(hook(name, parameter)) for name, parameter in pairs]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def _kept(particle: Particle) -> Parcel:
    adapters = {POSITION: particle.position, VELOCITY: particle.velocity, BEST: particle.best}
    return Parcel(adapters, {UTILITY: particle.best_utility, STALE: float(particle.stale)})


def _particle(memory: Parcel) -> Particle | None:
    if POSITION not in memory.adapters:
        return None
    adapters, numbers = memory.adapters, memory.numbers
    return replace(
        Particle(adapters[POSITION], adapters[VELOCITY], adapters[BEST]),
        best_utility=numbers[UTILITY],
        stale=int(numbers[STALE]),
    )
