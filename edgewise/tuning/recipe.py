"""How a model is adapted, and which window each step trains."""

import random
from collections.abc import Iterator
from dataclasses import dataclass, field

from edgewise.adapters import AdapterConfig
from edgewise.tuning.method import TuningMethod, WindowOrder
from edgewise.tuning.model import Window, windows_of


@dataclass(frozen=True, slots=True)
class Visit:
    """What is to be done with a batch: windows to train, each by its index, one step each; the
    first of these steps has a number."""

    batch: int
    first_step: int
    windows: tuple[int, ...]


def rate_of(method: TuningMethod) -> float:
    """A learning rate to begin with: each window has but its share of the steps (dev/LOG.md)."""
    return 4e-3 if method is TuningMethod.WINDOW else 1e-3


@dataclass(frozen=True, slots=True)
class Recipe:
    """`window` is how many blocks are trained together, of the method that trains few; a step is
    one of one window. The first `again` of them run a second time in the backward pass, which then
    needs less memory; what is learned does not depend on it."""

    method: TuningMethod = TuningMethod.WINDOW
    window: int = 6
    order: WindowOrder = WindowOrder.BATCH
    steps: int = 200
    batch: int = 4
    rate: float = 1e-3
    seed: int = 0
    again: int = 0
    adapter: AdapterConfig = field(default_factory=AdapterConfig)

    def windows(self, blocks: int) -> tuple[Window, ...]:
        return windows_of(blocks, self.window if self.method is TuningMethod.WINDOW else blocks)

    def window_at(self, step: int, count: int) -> int:
        """Which of `count` windows a step trains."""
        if self.order is WindowOrder.BATCH:
            return step % count
        if self.order is WindowOrder.RANDOM:
            return random.Random(f"{self.seed}|{step}").randrange(count)
        return min(step // max(self.steps // count, 1), count - 1)

    def batch_at(self, step: int, count: int) -> int:
        """Which batch a step trains one of `count` windows by."""
        return step // count if self.order is WindowOrder.BATCH else step

    def visits(self, step: int, count: int) -> Iterator[Visit]:
        """All that is to be done from a step on."""
        while step < self.steps:
            batch, first, windows = self.batch_at(step, count), step, list[int]()
            while step < self.steps and self.batch_at(step, count) == batch:
                windows.append(self.window_at(step, count))
                step += 1
            yield Visit(batch, first, tuple(windows))
