"""How a model is adapted, and which window each step trains."""

import random
from dataclasses import dataclass, field

from edgewise.adapters import AdapterConfig
from edgewise.tuning.method import TuningMethod
from edgewise.tuning.model import Window, windows_of


@dataclass(frozen=True, slots=True)
class Recipe:
    """`window` is how many blocks are trained together, of the method that trains few; `at_random`
    draws each step's window, which otherwise come one after the other, each for its share of the
    `steps`, as Edge-LLM's published code has it."""

    method: TuningMethod = TuningMethod.WINDOW
    window: int = 6
    at_random: bool = False
    steps: int = 200
    batch: int = 4
    rate: float = 1e-3
    seed: int = 0
    adapter: AdapterConfig = field(default_factory=AdapterConfig)

    def windows(self, blocks: int) -> tuple[Window, ...]:
        return windows_of(blocks, self.window if self.method is TuningMethod.WINDOW else blocks)

    def window_at(self, step: int, count: int) -> int:
        """Which of `count` windows a step trains."""
        if self.at_random:
            return random.Random(f"{self.seed}|{step}").randrange(count)
        return min(step // max(self.steps // count, 1), count - 1)
