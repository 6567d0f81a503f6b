"""What an adapted model has learned, by lessons that it was not given.

An answer is right where every one of its tokens is the likeliest behind those before it: then it is
what the model would write, taking the likeliest token each time.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from edgewise.models.votes import VOTES
from edgewise.tuning.lessons import Lesson, LessonBatch, batch_of
from edgewise.tuning.model import Tunable, Window

AT_ONCE = 8  # lessons


@dataclass(frozen=True, slots=True)
class ExitScore:
    """What an exit, or a vote, says of lessons: nats that it loses on all tokens to be learned, how
    many of these were its likeliest, and how many answers are right word for word."""

    nats: float = 0.0
    likeliest: int = 0
    right: int = 0

    def __add__(self, other: "ExitScore") -> "ExitScore":
        return ExitScore(
            self.nats + other.nats, self.likeliest + other.likeliest, self.right + other.right
        )

    def verdict(self, lessons: Sequence[Lesson]) -> "Verdict":
        """Of all of them."""
        tokens = sum(len(lesson.tokens) - lesson.first for lesson in lessons)
        return Verdict(self.nats / tokens, self.likeliest / tokens, self.right / len(lessons))


@dataclass(frozen=True, slots=True)
class Verdict:
    """Nats per token, the share of tokens that were the likeliest, and of answers that are right
    word for word."""

    loss: float
    likeliest: float
    right: float


def exit_score(log_probabilities: Tensor, batch: LessonBatch) -> ExitScore:
    """Of what was said of a batch's tokens to be learned, float32 [learned, vocabulary]."""
    targets, rows = batch.targets, batch.learned.nonzero()[:, 0]
    hits = log_probabilities.argmax(-1) == targets
    wrong = len(rows[~hits].unique())
    nats = -float(log_probabilities.gather(1, targets[:, None]).sum())
    return ExitScore(nats, int(hits.sum()), len(batch.tokens) - wrong)


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
    scores = dict.fromkeys([*names, *VOTES], ExitScore())
    for batch in map(batch_of, batches_of(lessons)):
        logits = exit_logits(model, batch)
        opinions = dict(zip(names, logits.log_softmax(-1), strict=True))
        opinions |= {name: vote(logits) for name, vote in VOTES.items()}
        for name, said in opinions.items():
            scores[name] += exit_score(said, batch)
    return {name: total.verdict(lessons) for name, total in scores.items()}


@torch.no_grad()
def judge_window(model: Tunable, window: Window, batch: LessonBatch, states: Tensor) -> ExitScore:
    """By one window's exit, from what its first block gets."""
    adapted = model.through(states, window.first, window.end)
    logits = model.logits(adapted[:, :-1][batch.learned], window)
    return exit_score(logits.float().log_softmax(-1), batch)


def batches_of(lessons: Sequence[Lesson]) -> Iterator[list[Lesson]]:
    """Lessons of like lengths together."""
    ordered = sorted(lessons, key=lambda lesson: len(lesson.tokens))
    for first in range(0, len(ordered), AT_ONCE):
        yield ordered[first : first + AT_ONCE]
