"""The model that a client adapts: adapters on its last blocks, and what the others make of lessons,
which is the same as long as these are not adapted."""

from collections.abc import Sequence

import torch
from torch import Tensor

from edgewise.federating.updates import Arrays
from edgewise.federation.settings import FederatedSettings
from edgewise.federation.shared import first_block, put
from edgewise.models.checkpoint import open_checkpoint
from edgewise.tuning.judging import ExitScore, Verdict, batches_of, judge_window
from edgewise.tuning.lessons import Lesson, LessonBatch, batch_of
from edgewise.tuning.loading import load_tunable
from edgewise.tuning.model import Tunable, Window

MOST_KEPT = 2**30  # bytes of states


class SharedModel:
    """`window` is what is adapted; nothing else of the model is trained, its exit least of all:
    what is sent would not be right without it."""

    def __init__(self, tunable: Tunable, window: Window) -> None:
        self.tunable, self.window = tunable, window
        self._kept, self._bytes = dict[tuple[int, ...], Tensor](), 0

    def put(self, arrays: Arrays) -> None:
        put(self.tunable.added, arrays)

    @torch.no_grad()
    def before(self, lessons: Sequence[Lesson]) -> tuple[LessonBatch, Tensor]:
        """Lessons as a batch, and what the first adapted block gets of them, float32 [B, T, H]: of
        lessons that came before it is remembered."""
        batch = batch_of(lessons)
        if self.window.first == 0:
            return batch, self.tunable.entered(batch.tokens)
        self._compute([x for x in dict.fromkeys(lessons) if x.tokens not in self._kept])
        rows = [self._kept[x.tokens] for x in lessons]
        states = torch.zeros(*batch.tokens.shape, rows[0].shape[-1])
        for place, row in zip(states, rows, strict=True):
            place[: len(row)] = row  # behind a lesson's end nobody looks
        return batch, states

    def judge(self, lessons: Sequence[Lesson]) -> Verdict:
        total = ExitScore()
        for some in batches_of(lessons):
            batch, states = self.before(some)
            total += judge_window(self.tunable, self.window, batch, states)
        return total.verdict(lessons)

    def _compute(self, lessons: Sequence[Lesson]) -> None:
        if not lessons:
            return
        if self._bytes > MOST_KEPT:
            self._kept, self._bytes = {}, 0
        states = self.tunable.entered(batch_of(lessons).tokens)
        states = self.tunable.plain(states, 0, self.window.first)
        for lesson, row in zip(lessons, states, strict=True):
            self._kept[lesson.tokens] = row[: len(lesson.tokens)].clone()
            self._bytes += self._kept[lesson.tokens].nbytes


def load_shared(settings: FederatedSettings) -> SharedModel:
    """Raises ModelError, InputError."""
    checkpoint = open_checkpoint(settings.model)
    first, blocks = first_block(checkpoint.config, settings.blocks), checkpoint.config.num_blocks
    window = Window(first, blocks)
    windows = (Window(0, first), window) if first else (window,)
    tunable = load_tunable(checkpoint, settings.scheme, settings.adapter, windows)
    tunable.exits.requires_grad_(False)
    for low in (low for parts in tunable.added[:first] for low in parts.values()):
        low.requires_grad_(False)
    return SharedModel(tunable, window)
