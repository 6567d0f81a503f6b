"""Some layers in every device's worker, timed by turns until their medians are known."""

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from statistics import median, quantiles

from edgewise.profiling.grid import Grid, Shape
from edgewise.runtime.coordinator.workers import Workers
from edgewise.runtime.trial_messages import Prepare, Prepared, Time, Timed

TIME_SECONDS = 300.0
WARM_UP = 1
PAUSE_SECONDS = 0.005  # after longer pauses, steps hardly get slower
LEAST_REPEATS = 5
BUSY_REPEATS = 8
PRECISION = 0.02  # of a median: its standard error, after which nothing is timed again
LONG_SECONDS = 0.5  # of all devices' steps of one shape: no more of them are needed

Progress = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class Run:
    """Median seconds of some layers per shape, and the bytes that their weights take."""

    seconds: dict[Shape, float]
    weight_bytes: int


@dataclass(frozen=True, slots=True)
class Bench:
    workers: Workers
    names: tuple[str, ...]
    shape: str
    grid: Grid
    on_progress: Progress

    def run(self, scheme: str, start: int, end: int, shapes: Sequence[Shape]) -> dict[str, Run]:
        """Layers [start, end) per shape, by device, the devices taking turns."""
        streams = 2 if self.grid.extra.branches else 1
        slots, context = streams * self.grid.sequences, self.grid.context
        layers = Prepare(self.shape, start, end, scheme, slots, context, self.grid.extra)
        weight_bytes = {
            name: self.workers.call(name, layers, Prepared, TIME_SECONDS).size
            for name in self.names
        }
        seconds: dict[str, dict[Shape, float]] = {name: {} for name in self.names}
        for shape in shapes:
            self.on_progress(f"{scheme}: layers {start}-{end - 1}")
            self._rounds(shape, WARM_UP)
            rounds = self._rounds(shape, self.grid.repeats)
            for name in self.names:
                seconds[name][shape] = median(row[name] for row in rounds)
        return {name: Run(seconds[name], weight_bytes[name]) for name in self.names}

    def busy_ratios(self, runs: dict[str, Run], shape: Shape) -> dict[str, float]:
        """By device, what the layers of the last `runs` take without pauses, of what they took."""
        ratios = {}
        for name in self.names:
            seconds = [self._time(name, shape) for _ in range(WARM_UP + BUSY_REPEATS)]
            ratios[name] = min(median(seconds[WARM_UP:]) / runs[name].seconds[shape], 1.0)
        return ratios

    def _time(self, name: str, shape: Shape) -> float:
        once = Time(*shape)
        return self.workers.call(name, once, Timed, TIME_SECONDS).seconds

    def _rounds(self, shape: Shape, most: int) -> list[dict[str, float]]:
        """Seconds of a step on every device, one device after the other: round by round until all
        medians are known, or until that has taken long."""
        rounds: list[dict[str, float]] = []
        spent = 0.0
        while len(rounds) < most and spent < LONG_SECONDS:
            rounds.append({})
            for name in self.names:
                time.sleep(PAUSE_SECONDS)
                rounds[-1][name] = self._time(name, shape)
            spent += sum(rounds[-1].values())
            if all(is_known([row[name] for row in rounds]) for name in self.names):
                break
        return rounds


def is_known(seconds: Sequence[float]) -> bool:
    """Whether the median is known to PRECISION. Of n normal numbers its standard error is
    sqrt(pi / 2) sigma / sqrt(n), and their quartiles are 1.349 sigma apart."""
    if len(seconds) < LEAST_REPEATS:
        return False
    low, middle, high = quantiles(seconds, n=4)
    error = math.sqrt(math.pi / 2) * (high - low) / 1.349 / math.sqrt(len(seconds))
    return error <= PRECISION * middle
