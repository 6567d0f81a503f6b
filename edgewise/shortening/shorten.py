"""From a model and a text to a model of fewer blocks, in steps that report how they go."""

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import psutil
from torch import Tensor

from edgewise.errors import InputError
from edgewise.models.checkpoint import Checkpoint, open_checkpoint
from edgewise.models.decoder import Block
from edgewise.models.rewriting import write_checkpoint
from edgewise.quality.rounding import Show
from edgewise.shortening.distilling import Distillation, DistillationStep
from edgewise.shortening.judging import token_nats
from edgewise.shortening.recipe import DistillationRecipe
from edgewise.shortening.spans import (
    BlockSpan,
    check_dropped,
    kept_blocks,
    most_similar,
    span_similarities,
)
from edgewise.units import format_bytes

LOOKED_AT, HELD_OUT = 4096, 4096  # tokens that spans are compared on, and that losses are of
EVERY = 10  # of the pieces one is held out, up to HELD_OUT tokens


@dataclass(frozen=True)
class TextSplit:
    """Pieces [N, T] of token ids that are learned from, and others to judge by."""

    learned: Tensor
    held_out: Tensor

    @staticmethod
    def of(pieces: Tensor, text: str) -> "TextSplit":
        """Every tenth is held out. Raises InputError where there are too few."""
        if len(pieces) < EVERY:
            raise InputError(
                f"{text}: {len(pieces)} pieces of text, but {EVERY} are needed at least"
            )
        chosen = range(0, len(pieces), EVERY)[: max(HELD_OUT // pieces.shape[1], 1)]
        rest = sorted(set(range(len(pieces))) - set(chosen))
        return TextSplit(pieces[rest], pieces[list(chosen)])

    @property
    def looked_at(self) -> Tensor:
        """Some of what is learned from, spread over all of it."""
        count = max(LOOKED_AT // self.learned.shape[1], 1)
        return self.learned[:: max(len(self.learned) // count, 1)][:count]


@dataclass(frozen=True)
class ShorterModel:
    """`blocks` of a model by number, of which those `changed` have learned. `similarities` of each
    span that could have been chosen, by its first block."""

    checkpoint: Checkpoint
    span: BlockSpan
    blocks: list[int]
    similarities: list[float]
    changed: dict[int, Block] = field(default_factory=dict)
    steps: list[DistillationStep] = field(default_factory=list)

    def loss(self, ids: Tensor, on_step: Callable[[str], None] = lambda step: None) -> float:
        """Nats per token of sequences [B, T]."""
        nats = token_nats(
            self.checkpoint, ids, blocks=self.blocks, changed=self.changed, on_step=on_step
        )
        return float(nats.mean())

    def write(self, folder: Path, on_layer: Callable[[str], None] = lambda layer: None) -> None:
        """As a checkpoint. Raises InputError, DiskError."""
        write_checkpoint(self.checkpoint, self.blocks, self.changed, folder, on_layer)


def shorten(
    model: str, dropped: int, split: TextSplit, recipe: DistillationRecipe, show: Show
) -> ShorterModel:
    """A model of `dropped` blocks fewer. Without steps the span of so many blocks that changes
    states least is left out; with steps the first of one block more, or an MLP in its place, learns
    what all of them did.
    Raises InputError, ModelError, NonFinite."""
    checkpoint = open_checkpoint(model)
    check_dropped(checkpoint, dropped)
    learns = recipe.steps + recipe.word_steps > 0
    length, blocks = dropped + learns, checkpoint.config.num_blocks
    with show("comparing spans", blocks + 1) as advance:
        similarities = span_similarities(checkpoint, split.looked_at, [length], advance)[length]
    span = most_similar(similarities, length)
    shorter = ShorterModel(
        checkpoint, span, kept_blocks(checkpoint.config, span, learns), similarities
    )
    if learns:
        learn(shorter, recipe, split.learned, show)
    return shorter


def learn(shorter: ShorterModel, recipe: DistillationRecipe, pieces: Tensor, show: Show) -> None:
    """Let the block that stays of the span learn from pieces [N, T]."""
    distillation = Distillation(shorter.checkpoint, shorter.span, recipe, pieces)
    process, total = psutil.Process(), recipe.steps + recipe.word_steps
    with show("learning", total) as advance:
        for step in distillation.steps():
            shorter.steps.append(step)
            rate, memory = step.tokens / step.seconds, format_bytes(process.memory_info().rss)
            advance(f"loss {step.loss:.3f}, {rate:.0f} tokens/s, {memory}")
    shorter.changed[shorter.span.first] = distillation.learned()
