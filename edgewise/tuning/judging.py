"""What an adapted model has learned, by lessons that it was not given.

An answer is right where every one of its tokens is the likeliest behind those before it: then it is
what the model would write, taking the likeliest token each time.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from edgewise.tuning.lessons import Lesson, LessonBatch, batch_of
from edgewise.tuning.model import Tunable, Window
from edgewise.tuning.votes import VOTES

AT_ONCE = 8  # lessons


@dataclass(frozen=True, slots=True)
class Verdict:
    """Nats per token, and the share of answers that are right word for word."""

    loss: float
    right: float


@torch.no_grad()
def exit_logits(model: Tunable, batch: LessonBatch) -> Tensor:
    """What each exit says of the tokens to be learned, float32 [exits, learned, vocabulary]. Every
    window's blocks get what the model itself computed before them: the states run once through all
    blocks as they are, and from each window's beginning once through its adapted ones."""
    states, said = model.entered(batch.tokens), []
    for window in model.windows:
        adapted = model.through(states, window.first, window.end)
        said.append(model.logits(adapted[:, :-1][batch.learned], window))
        if window is not model.windows[-1]:
            states = model.plain(states, window.first, window.end)
    return torch.stack(said).float()


def judge(model: Tunable, lessons: Sequence[Lesson]) -> dict[str, Verdict]:
    """Every exit alone ("exit 6": behind so many blocks), and every vote of all of them."""
    names = [f"exit {window.end}" for window in model.windows]
    total, right, count = (
        dict.fromkeys([*names, *VOTES], 0.0),
        dict.fromkeys([*names, *VOTES], 0),
        0,
    )
    for batch in map(batch_of, batches_of(lessons)):
        logits, targets = exit_logits(model, batch), batch.targets
        rows = batch.learned.nonzero()[:, 0]
        count += len(targets)
        opinions = dict(zip(names, logits.log_softmax(-1), strict=True))
        opinions |= {name: vote(logits) for name, vote in VOTES.items()}
        for name, said in opinions.items():
            total[name] -= float(said.gather(1, targets[:, None]).sum())
            wrong = rows[said.argmax(-1) != targets].unique()
            right[name] += len(batch.tokens) - len(wrong)
    return {name: Verdict(total[name] / count, right[name] / len(lessons)) for name in total}


@torch.no_grad()
def judge_window(
    model: Tunable, window: Window, batch: LessonBatch, states: Tensor
) -> tuple[float, int]:
    """By one window's exit, from what its first block gets: nats of all tokens that were to be
    learned, and how many answers are right."""
    adapted = model.through(states, window.first, window.end)
    said = model.logits(adapted[:, :-1][batch.learned], window).float().log_softmax(-1)
    targets, rows = batch.targets, batch.learned.nonzero()[:, 0]
    wrong = rows[said.argmax(-1) != targets].unique()
    return -float(said.gather(1, targets[:, None]).sum()), len(batch.tokens) - len(wrong)


def batches_of(lessons: Sequence[Lesson]) -> Iterator[list[Lesson]]:
    """Lessons of like lengths together."""
    ordered = sorted(lessons, key=lambda lesson: len(lesson.tokens))
    for first in range(0, len(ordered), AT_ONCE):
        yield ordered[first : first + AT_ONCE]
