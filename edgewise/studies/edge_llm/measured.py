"""What each part brings here: steps on the real model, by turns."""

import time
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import fmean, median

from edgewise.adapters import AdapterConfig
from edgewise.demo.questions import draw_questions, prompt
from edgewise.models.checkpoint import open_checkpoint
from edgewise.models.tokenizer import load_tokenizer
from edgewise.studies.page import OnStep
from edgewise.tuning.kept import kept_by
from edgewise.tuning.lessons import Lesson, batch_of, lessons_of
from edgewise.tuning.loading import load_tunable
from edgewise.tuning.method import TuningMethod, WindowOrder
from edgewise.tuning.recipe import Recipe
from edgewise.tuning.records import Record, answered
from edgewise.tuning.training import Training

BATCH, ROUNDS, WINDOW = 8, 3, 6


@dataclass(frozen=True, slots=True)
class TimedWay:
    """A way to train, one part more than the one before."""

    name: str
    scheme: str
    method: TuningMethod
    order: WindowOrder = WindowOrder.BATCH


WAYS = (
    TimedWay("LoRA through all blocks, bf16", "bf16", TuningMethod.LORA),
    TimedWay("LoRA through all blocks, 4 bits", "q4g32ad", TuningMethod.LORA),
    TimedWay("+ windows of 6 blocks, by lot", "q4g32ad", TuningMethod.WINDOW, WindowOrder.RANDOM),
    TimedWay("+ each batch through all windows", "q4g32ad", TuningMethod.WINDOW),
)


@dataclass(frozen=True, slots=True)
class StepCost:
    """The mean step's seconds, and the most bytes that any keeps for its backward pass."""

    seconds: float
    kept_bytes: int


def measure_ways(model: str, on_step: OnStep) -> dict[str, StepCost]:
    """Each way's steps, a round of all windows each by turns; the first round does not count."""
    lessons = lessons_of(_questions(), load_tokenizer(model), 512)
    checkpoint, trainings = open_checkpoint(model), dict[str, Training]()
    for way in WAYS:
        recipe = Recipe(way.method, WINDOW, way.order, batch=BATCH, adapter=AdapterConfig())
        windows = recipe.windows(checkpoint.config.num_blocks)
        tunable = load_tunable(checkpoint, way.scheme, recipe.adapter, windows)
        trainings[way.name] = Training(tunable, recipe, lessons)
        on_step(f"loaded: {way.name}")
    seconds: dict[str, list[list[float]]] = {way.name: [] for way in WAYS}
    for _ in range(ROUNDS + 1):
        for name, training in trainings.items():
            seconds[name].append([_timed(training) for _ in training.model.windows])
            on_step(name)
    return {
        name: StepCost(_mean_of_medians(rounds[1:]), _most_kept(trainings[name], lessons))
        for name, rounds in seconds.items()
    }


def _questions() -> list[Record]:
    drawn = draw_questions(1, 8 * BATCH, "train")
    return [answered(prompt(x.context, x.question), x.answer) for x in drawn]


def _timed(training: Training) -> float:
    began = time.perf_counter()
    training.step()
    return time.perf_counter() - began


def _mean_of_medians(rounds: list[list[float]]) -> float:
    medians: list[float] = [median(steps) for steps in zip(*rounds, strict=True)]
    return fmean(medians)


def _most_kept(training: Training, lessons: Sequence[Lesson]) -> int:
    model, batch = training.model, batch_of(lessons[:BATCH])
    states, most = model.entered(batch.tokens), 0
    for window in model.windows:
        most = max(most, kept_by(model, window, batch, states))
        states = model.plain(states, window.first, window.end)
    return most
