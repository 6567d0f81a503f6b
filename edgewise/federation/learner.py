"""A client: a model with adapters, its own data, and what it does when it is asked."""

from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np
import torch

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
from edgewise.federation.settings import FederatedSettings
from edgewise.federation.shared import added_by, arrays_of, first_block, put
from edgewise.models.checkpoint import open_checkpoint
from edgewise.tuning.judging import Verdict, judge
from edgewise.tuning.lessons import Lesson
from edgewise.tuning.loading import load_tunable
from edgewise.tuning.method import TuningMethod
from edgewise.tuning.model import Tunable, Window
from edgewise.tuning.recipe import Recipe
from edgewise.tuning.training import Training

LAST = "last"  # the exit at the model's end
POSITION, VELOCITY, BEST, STALE = "position", "velocity", "best", "stale"
NOTHING = Parcel()


def load_shared(settings: FederatedSettings) -> Tunable:
    """The model, with adapters on its last blocks; nothing else of it is trained, its exit least of
    all: what is sent would not be right without it. Raises ModelError, InputError."""
    checkpoint = open_checkpoint(settings.model)
    first = first_block(checkpoint.config, settings.blocks)
    window = Window(first, checkpoint.config.num_blocks)
    model = load_tunable(checkpoint, settings.scheme, settings.adapter, (window,))
    model.exits.requires_grad_(False)
    for low in (low for parts in model.added[:first] for low in parts.values()):
        low.requires_grad_(False)
    return model


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
        model: Callable[[], Tunable],
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
                return lead(request.parcel, begin(self._settings), self._settings.merging)

    def judged(self, arrays: Arrays) -> Verdict:
        """By what it holds out."""
        model = self._model()
        put(model.added, arrays)
        return judge(model, self._held_out)[LAST]

    def _trained(self, start: Arrays, number: int, proximal: float = 0.0) -> Parcel:
        arrays, loss = self._learn(start, number, proximal)
        return Parcel({ADAPTER: arrays}, {SAMPLES: float(len(self._learned)), LOSS: loss})

    def _learn(
        self, start: Arrays, number: int, proximal: float = 0.0
    ) -> tuple[dict[str, Array], float]:
        """What it comes to from `start`, and the mean loss on the way; round `number`'s batches."""
        model, settings = self._model(), self._settings
        put(model.added, start)
        recipe = Recipe(
            TuningMethod.LORA, steps=settings.steps, batch=settings.batch, rate=settings.rate,
            seed=settings.seed, adapter=settings.adapter,
        )  # fmt: skip
        training = Training(model, recipe, self._learned)
        training.done = (number - 1) * settings.steps
        with _pulled(model, start, proximal):
            steps = [training.step() for _ in range(settings.steps)]
        return arrays_of(model.added), sum(step.loss for step in steps) / len(steps)

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


class _pulled:
    """While it is entered, gradients are drawn towards `start` (FedProx)."""

    def __init__(self, model: Tunable, start: Arrays, strength: float) -> None:
        self._model, self._start, self._strength = model, start, strength
        self._handles: list[torch.utils.hooks.RemovableHandle] = []

    def __enter__(self) -> None:
        if not self._strength:
            return
        for number, parts in enumerate(self._model.added):
            for part, low in parts.items():
                for name, parameter in low.named_parameters():
                    if parameter.requires_grad:
                        whole = f"{number}.{part}.{name}"
                        self._handles.append(self._hook(parameter, whole))

    def _hook(self, parameter: torch.nn.Parameter, name: str) -> torch.utils.hooks.RemovableHandle:
        def pull(gradient: torch.Tensor) -> torch.Tensor:
            now = {name: parameter.detach().numpy()}
            term = proximal_gradient(now, {name: self._start[name]}, self._strength)
            return gradient + torch.from_numpy(np.array(term[name]))

        return parameter.register_hook(pull)

    def __exit__(self, *error: object) -> None:
        for handle in self._handles:
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
