"""Some layers in every device's worker, timed by turns, and all again until medians are known."""

import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean, median, quantiles

from edgewise.profiling.grid import Grid, Shape
from edgewise.runtime.coordinator.workers import Workers
from edgewise.runtime.trial_messages import Prepare, Prepared, Time, Timed

TIME_SECONDS = 300.0
PASSES = 5  # over everything, at most
ENOUGH_SECONDS = 60.0  # of passes: what makes a machine slower for a while has been met by then
PAUSE_SECONDS = 0.005  # after longer pauses, steps hardly get slower
LEAST_REPEATS = 5
BUSY_REPEATS = 8
PRECISION = 0.02  # of a median: its standard error, after which nothing is timed again
LONG_SECONDS = 0.5  # of all devices' steps of one shape: no more of them in a pass

Progress = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class TimedLayers:
    """Layers [start, end) and the shapes to time them in; the first of these without pauses, too,
    where `busy`."""

    start: int
    end: int
    shapes: tuple[Shape, ...]
    busy: bool = False


@dataclass(frozen=True, slots=True)
class Run:
    """Median seconds of a part per shape, the bytes that its weights take, and the mean of its
    seconds without pauses, of that median: how many steps come to an end in an hour is a matter of
    their mean."""

    seconds: Mapping[Shape, float]
    weight_bytes: int
    busy_ratio: float


@dataclass(slots=True)
class _Samples:
    """Seconds of a part on a device, step by step: by shape, and those without pauses."""

    weight_bytes: int
    rested: dict[Shape, list[float]]
    busy: list[float]

    def run(self, part: TimedLayers) -> Run:
        seconds = {shape: median(self.rested[shape]) for shape in part.shapes}
        ratio = fmean(self.busy) / seconds[part.shapes[0]] if part.busy else 1.0
        return Run(seconds, self.weight_bytes, ratio)


@dataclass(frozen=True, slots=True)
class Bench:
    workers: Workers
    names: tuple[str, ...]
    shape: str
    grid: Grid
    on_progress: Progress

    def run(self, scheme: str, parts: Sequence[TimedLayers]) -> dict[str, dict[TimedLayers, Run]]:
        """By device. All parts, one after the other, and all of them again: a machine that others
        use, too, may be a third slower for some seconds, and parts are subtracted from each other.
        """
        samples: dict[tuple[str, TimedLayers], _Samples] = {}
        began = time.monotonic()
        for _ in range(PASSES):
            for part in parts:
                for name, size in self._prepare(scheme, part).items():
                    new = _Samples(size, {shape: [] for shape in part.shapes}, [])
                    samples.setdefault((name, part), new)
                self._time_part(scheme, part, {x: samples[x, part] for x in self.names})
            rows = (row for one in samples.values() for row in one.rested.values())
            if time.monotonic() - began > ENOUGH_SECONDS or all(map(is_known, rows)):
                break
        return {x: {part: samples[x, part].run(part) for part in parts} for x in self.names}

    def _prepare(self, scheme: str, part: TimedLayers) -> dict[str, int]:
        """Bytes of the weights, by device."""
        streams = 2 if self.grid.extra.branches else 1
        slots, context = streams * self.grid.sequences, self.grid.context
        where = self.shape, part.start, part.end, scheme
        layers = Prepare(*where, slots, context, self.grid.extra)
        return {
            name: self.workers.call(name, layers, Prepared, TIME_SECONDS).size
            for name in self.names
        }

    def _time_part(self, scheme: str, part: TimedLayers, samples: Mapping[str, _Samples]) -> None:
        """Add a pass to the samples of each device."""
        self._by_turns(part.shapes[0])  # weights were just made
        for shape in part.shapes:
            self.on_progress(f"{scheme}: layers {part.start}-{part.end - 1}")
            spent = 0.0
            for _ in range(math.ceil(self.grid.repeats / PASSES)):
                row = self._by_turns(shape)
                for name, seconds in row.items():
                    samples[name].rested[shape].append(seconds)
                if (spent := spent + sum(row.values())) > LONG_SECONDS:
                    break
        if part.busy:
            for name, busy in self._at_once(part.shapes[0]).items():
                samples[name].busy += busy

    def _by_turns(self, shape: Shape) -> dict[str, float]:
        """Seconds of a step on every device, each woken when the one before it is through."""
        row, once = {}, Time(*shape)
        for name in self.names:
            time.sleep(PAUSE_SECONDS)
            row[name] = self.workers.call(name, once, Timed, TIME_SECONDS).seconds
        return row

    def _at_once(self, shape: Shape) -> dict[str, list[float]]:
        """Seconds of steps without pauses, on all devices at the same time, as in a full pipeline:
        those that share a machine then take its memory and its caches from each other."""
        longest, once = max(self._by_turns(shape).values()), Time(*shape)
        count = min(max(math.ceil(LONG_SECONDS / longest), 1), BUSY_REPEATS)
        seconds: dict[str, list[float]] = {name: [] for name in self.names}
        for name in self.names:
            self.workers.send(name, once)
        while busy := [name for name in self.names if len(seconds[name]) <= count]:
            for name, timed in self.workers.collect(Timed, busy, TIME_SECONDS, least=1).items():
                seconds[name].append(timed.seconds)
                if len(seconds[name]) <= count:
                    self.workers.send(name, once)
        return {name: row[1:] for name, row in seconds.items()}  # the first came after a pause


def is_known(seconds: Sequence[float]) -> bool:
    """Whether the median is known to PRECISION. Of n normal numbers its standard error is
    sqrt(pi / 2) sigma / sqrt(n), and their quartiles are 1.349 sigma apart."""
    if len(seconds) < LEAST_REPEATS:
        return False
    low, middle, high = quantiles(seconds, n=4)
    error = math.sqrt(math.pi / 2) * (high - low) / 1.349 / math.sqrt(len(seconds))
    return error <= PRECISION * middle
