"""Records as tokens, and lessons as batches."""

import random
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from edgewise.errors import InputError
from edgewise.models.tokenizer import Tokenizer
from edgewise.tuning.records import Record

USUAL = 512  # tokens


@dataclass(frozen=True, slots=True)
class Lesson:
    """Token ids, of which the model learns to say those from `first` on."""

    tokens: tuple[int, ...]
    first: int


@dataclass(frozen=True, slots=True)
class LessonBatch:
    """Lessons as one: tokens int64 [B, T], zeros behind the shorter ones, which nobody sees; and
    where the next token is to be learned, bool [B, T - 1]."""

    tokens: Tensor
    learned: Tensor

    @property
    def targets(self) -> Tensor:
        """The tokens that are learned, int64 [learned]."""
        return self.tokens[:, 1:][self.learned]


def lessons_of(records: Iterable[Record], tokenizer: Tokenizer, longest: int) -> list[Lesson]:
    """Conversations by the model's template, the answer ended by a token at which answers end; a
    text in pieces of at most `longest` tokens. What is longer is refused. Raises InputError,
    PromptError."""
    end = sorted(tokenizer.stop_ids)[:1]
    lessons = list[Lesson]()
    for number, record in enumerate(records, start=1):
        if not record.turns:
            ids = tokenizer.encode(record.answer)
            lessons += [_piece(ids[i : i + longest]) for i in range(0, len(ids) - 1, longest)]
            continue
        asked = tokenizer.encode_chat(record.turns)
        tokens = (*asked, *tokenizer.continued(record.answer), *end)
        if len(tokens) > longest:
            raise InputError(
                f"record {number} has {len(tokens)} tokens, more than {longest}: shorten it, or "
                "allow more with --longest"
            )
        lessons.append(Lesson(tokens, len(asked)))
    return lessons


def tokens_at_most(longest: int | None, max_context: int) -> int:
    """Of a record: as many as was said, else `USUAL` or what the model takes. Raises InputError
    where it takes fewer than was said."""
    if longest is not None and longest > max_context:
        raise InputError(
            f"records of {longest} tokens are longer than the model takes, {max_context}: give a "
            "smaller --longest"
        )
    return longest or min(USUAL, max_context)


def _piece(ids: Sequence[int]) -> Lesson:
    return Lesson(tuple(ids), 1)


def split(
    lessons: Sequence[Lesson], held_out: float, seed: int
) -> tuple[list[Lesson], list[Lesson]]:
    """What is learned, and a share that is held out, both drawn by lot. Raises InputError where
    either would be empty."""
    order = random.Random(seed).sample(range(len(lessons)), len(lessons))
    count = max(round(held_out * len(lessons)), 1)
    if count >= len(lessons):
        raise InputError(f"{len(lessons)} records are too few to hold some of them out")
    return [lessons[i] for i in sorted(order[count:])], [lessons[i] for i in sorted(order[:count])]


def batch_of(lessons: Sequence[Lesson]) -> LessonBatch:
    longest = max(len(lesson.tokens) for lesson in lessons)
    tokens = torch.zeros(len(lessons), longest, dtype=torch.int64)
    learned = torch.zeros(len(lessons), longest - 1, dtype=torch.bool)
    for row, lesson in enumerate(lessons):
        tokens[row, : len(lesson.tokens)] = torch.tensor(lesson.tokens)
        learned[row, lesson.first - 1 : len(lesson.tokens) - 1] = True
    return LessonBatch(tokens, learned)


def longest_of(lessons: Sequence[Lesson], count: int) -> list[Lesson]:
    """The batch for which a step needs most memory."""
    return sorted(lessons, key=lambda lesson: len(lesson.tokens))[-count:]


def drawn(lessons: Sequence[Lesson], size: int, number: int, seed: int) -> list[Lesson]:
    """A batch by its number: every lesson once before any comes again, whoever asks."""
    chosen = []
    for place in range(number * size, (number + 1) * size):
        epoch, at = divmod(place, len(lessons))
        order = list(range(len(lessons)))
        random.Random(f"{seed}|{epoch}").shuffle(order)
        chosen.append(lessons[order[at]])
    return chosen
