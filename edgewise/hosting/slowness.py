"""Devices that take longer than they were measured to: noticed from the seconds that steps come
back with. Who computes beside us, or is too hot, is slow for a while; so it is tried again later.
"""

from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from statistics import median

from edgewise.plans import Plan
from edgewise.runtime.events import Event, PlanInUse, Returned

SLOW = 2.0  # times what was measured
SECONDS = 20.0  # for which a device must have been slow
LEAST_STEPS = 20  # in each half of them
MOST_STEPS = 2000  # remembered of a device
AGAIN_SECONDS = 300.0  # until a device is taken to be what it was; doubles where it is not

Ratio = tuple[float, float]  # when a step came back, and how many times as long as measured it took
Expected = Callable[[Plan, int], Sequence[float]]  # seconds of each stage, so many sequences


def slowness(ratios: Sequence[Ratio], now: float) -> float | None:
    """How many times as long as measured a device takes, where it has been slow throughout the
    last seconds; else None."""
    early, late = list[float](), list[float]()
    for at, ratio in ratios:
        age = now - at
        if age <= SECONDS:
            (late if age < SECONDS / 2 else early).append(ratio)
    if min(len(early), len(late)) < LEAST_STEPS or min(median(early), median(late)) < SLOW:
        return None
    return median(early + late)


def device_ratios(
    plan: Plan, seconds: Sequence[float], expected: Sequence[float]
) -> dict[str, float]:
    """Of each device of a plan: its stages' seconds in a step, in those that were expected."""
    spent, said = dict.fromkeys(plan.devices, 0.0), dict.fromkeys(plan.devices, 0.0)
    for stage, took, known in zip(plan.stages, seconds, expected, strict=True):
        spent[stage.device] += took
        said[stage.device] += known
    return {name: spent[name] / said[name] for name in plan.devices if said[name]}


@dataclass(slots=True)
class Slow:
    """A device counts as `factor` times as slow as measured until then, for the `times`th time."""

    factor: float
    until: float
    times: int


@dataclass(slots=True)
class Watch:
    """Listens to an engine, whose plan is the first that it is told. Steps of answers alone count:
    one token of each request."""

    expected: Expected
    _ratios: dict[str, deque[Ratio]] = field(default_factory=dict)
    _slow: dict[str, Slow] = field(default_factory=dict)
    _known: dict[int, Sequence[float]] = field(default_factory=dict)  # by sequences
    _plan: Plan | None = None

    @property
    def factors(self) -> Mapping[str, float]:
        """Of devices that are slow now."""
        return {name: slow.factor for name, slow in self._slow.items() if slow.factor > 1}

    def listen(self, event: Event) -> None:
        if isinstance(event, PlanInUse):
            self._plan = event.plan
            self.forget()
        elif isinstance(event, Returned) and event.seconds and self._plan is not None:
            rows = event.entered.batch.rows
            if all(len(row.tokens) == 1 for row in rows):
                self._note(self._plan, event.at, len(rows), event.seconds)

    def _note(self, plan: Plan, at: float, sequences: int, seconds: Sequence[float]) -> None:
        if sequences not in self._known:
            self._known[sequences] = self.expected(plan, sequences)
        for name, ratio in device_ratios(plan, seconds, self._known[sequences]).items():
            ratios = self._ratios.setdefault(name, deque(maxlen=MOST_STEPS))
            if not ratios or at - ratios[-1][0] >= SECONDS / MOST_STEPS:
                ratios.append((at, ratio))

    def text(self, device: str) -> str:
        """What `find` has found of a device."""
        if (factor := self.factors.get(device)) is None:
            return f"'{device}' was slow: taken to be as quick as measured again"
        return f"'{device}' takes {factor:.1f} times as long as measured"

    def drop(self, device: str) -> None:
        """Another one may come by its name."""
        self._slow.pop(device, None)

    def forget(self) -> None:
        """What was seen so far is not what is to be expected any more."""
        self._ratios.clear()
        self._known.clear()

    def find(self, now: float) -> str | None:
        """A device that has become slow, or is to be tried again; `factors` says since then how
        slow each is."""
        for name, slow in self._slow.items():
            if slow.factor > 1 and now >= slow.until:
                slow.factor = 1.0
                return name
        for name, ratios in self._ratios.items():
            if (times := slowness(ratios, now)) is not None:
                before = self._slow.get(name, Slow(1.0, 0.0, 0))
                pause = AGAIN_SECONDS * 2**before.times
                self._slow[name] = Slow(before.factor * times, now + pause, before.times + 1)
                return name
        return None
