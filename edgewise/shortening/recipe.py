"""How a block learns to do what a span did."""

import math
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from edgewise.errors import InputError
from edgewise.shortening.replacement import RATES, Replacement

WARM_UP = 0.03  # share of the steps in which the rate rises
FALLS_TO = 0.25  # share of the rate that the last step has, as the paper's code has it


@dataclass(frozen=True, slots=True)
class DistillationRecipe:
    """`steps` by the states behind the span, then `word_steps` by the next token, each of `batch`
    pieces of text of `length` tokens; what learns is the `replacement`."""

    steps: int = 200
    word_steps: int = 0
    batch: int = 4
    length: int = 256
    rate: float = RATES[Replacement.BLOCK]
    seed: int = 0
    replacement: Replacement = Replacement.BLOCK

    def __post_init__(self) -> None:
        if min(self.steps, self.word_steps) < 0 or min(self.batch, self.length - 1) < 1:
            raise InputError("steps must not be negative, and batches must hold text")
        if not (self.rate > 0 and math.isfinite(self.rate)):
            raise InputError(f"the learning rate is {self.rate}, no positive number")

    def rate_at(self, step: int, steps: int) -> float:
        """Of one of `steps`: it rises, then falls along a cosine."""
        warmth = min((step + 1) / max(WARM_UP * steps, 1.0), 1.0)
        fallen = (1 + math.cos(math.pi * step / steps)) / 2
        return self.rate * warmth * (FALLS_TO + (1 - FALLS_TO) * fallen)

    def batches(self, pieces: Tensor) -> Iterator[Tensor]:
        """Token ids [batch, T] without end, of pieces [N, T]: each once before any comes again."""
        generator, left = torch.Generator().manual_seed(self.seed), torch.empty(0, dtype=torch.long)
        while True:
            while len(left) < self.batch:
                left = torch.cat((left, torch.randperm(len(pieces), generator=generator)))
            yield pieces[left[: self.batch]]
            left = left[self.batch :]
