"""Sequences with adapters of windows: stretches of blocks, each with an exit behind it (Edge-LLM,
2406.15758).

Each window learned on top of the model as it is. So what the model as it is computes goes through
all blocks, and beside it a branch: from the beginning of each window on through its blocks with
their adapters, to its exit. Nobody waits for plain states behind the last window, so a sequence
itself goes through that one with adapters. For cache and kernels a branch is one more sequence,
which runs in the same step: its blocks' weights are read once for both.

Between layers, a segment's rows lie one after the other: its own tokens'; its branch's, where one
is under way; and what came out of windows so far, of the tokens that are asked for.
"""

from bisect import bisect_left
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise

import torch
from torch import Tensor

from edgewise.models.cache import Segment
from edgewise.models.decoder import Head
from edgewise.models.exits import HeldExits

# (states [tokens, H], segments, first block, end) -> [tokens, H]
RunBlocks = Callable[[Tensor, list[Segment], int, int], Tensor]


def branch_of(sequence: int) -> int:
    """The number by which a sequence's branch is known; no sequence has it."""
    return ~sequence


def rows_before(block: int, length: int, asked: int, ends: tuple[int, ...]) -> tuple[int, int, int]:
    """How many rows a segment of `length` tokens has between layers, before a block: its own, its
    branch's, and of what came out of windows, of the tokens that are `asked` for. `ends` are those
    of its windows but the last."""
    begins = block == 0 or block in ends
    branches = bool(ends) and not begins and block < ends[-1]
    return length, branches * length, sum(end <= block for end in ends) * asked


@dataclass(slots=True)
class Course:
    """A segment's rows on their way. `asked` are the tokens of it that something is asked of, by
    their place in it; `ends` those of its windows but the last, without any it has no branch."""

    segment: Segment
    asked: Sequence[int]
    ends: tuple[int, ...] = ()
    own: Tensor = field(default_factory=lambda: torch.empty(0))
    branch: Tensor | None = None
    outcomes: list[Tensor] = field(default_factory=list)

    def rows_before(self, block: int) -> tuple[int, int, int]:
        """Between layers, before a block."""
        return rows_before(block, self.segment.length, len(self.asked), self.ends)

    def take(self, rows: Tensor, block: int) -> None:
        """Its rows as they are before a block."""
        self.own, branch, outcomes = rows.split(self.rows_before(block))
        self.branch = branch if len(branch) else None
        count = sum(end <= block for end in self.ends)
        self.outcomes = list(outcomes.view(count, len(self.asked), rows.shape[-1]))

    def rows(self) -> list[Tensor]:
        """Those that go on to the next layer."""
        return [self.own, *([] if self.branch is None else [self.branch]), *self.outcomes]

    def begin(self, block: int) -> None:
        """A window begins there, or none."""
        if self.ends and block < self.ends[-1] and (block == 0 or block in self.ends):
            self.branch = self.own

    def end(self, block: int) -> None:
        """A window ends there, or none."""
        if block in self.ends and self.branch is not None:
            self.outcomes.append(self.branch[list(self.asked)])
            self.branch = None

    def streams(self) -> Iterator[tuple[Segment, Tensor]]:
        """What runs through blocks now."""
        segment = self.segment
        yield segment, self.own
        if self.branch is not None:
            sequence, adapter = branch_of(segment.sequence), branch_adapter(segment.adapter)
            yield Segment(sequence, segment.start, segment.length, adapter), self.branch

    def advance(self, states: Iterator[Tensor]) -> None:
        """What blocks made of `streams`."""
        self.own = next(states)
        if self.branch is not None:
            self.branch = next(states)


def branch_adapter(adapter: int) -> int:
    """The number by which a shard knows what an adapter adds to its branches."""
    return -adapter


def courses_of(
    segments: Sequence[Segment], rows: Sequence[int], ends: Callable[[int], tuple[int, ...]]
) -> list[Course]:
    """Of segments whose tokens `rows`, ascending, are asked for; `ends` are an adapter's."""
    courses, first = [], 0
    for segment in segments:
        last = first + segment.length
        mine = rows[bisect_left(rows, first) : bisect_left(rows, last)]
        courses.append(Course(segment, [row - first for row in mine], ends(segment.adapter)))
        first = last
    return courses


def run_courses(courses: Sequence[Course], first: int, end: int, run: RunBlocks) -> None:
    """All of them through the model's blocks [first, end), in stretches between windows."""
    inside = {at for course in courses for at in course.ends if first < at < end}
    for start, stop in pairwise(sorted({first, end, *inside})):
        for course in courses:
            course.begin(start)
        streams = [stream for course in courses for stream in course.streams()]
        segments = [segment for segment, _ in streams]
        states = run(torch.cat([states for _, states in streams]), segments, start, stop)
        parts = iter(states.split([segment.length for segment in segments]))
        for course in courses:
            course.advance(parts)
            course.end(stop)


def said_of(
    courses: Sequence[Course],
    head: Head,
    exits: Mapping[int, HeldExits],
    logits: Callable[[Tensor], Tensor],
    at_once: int,
) -> list[Tensor]:
    """What comes of them behind all blocks, float32 [asked, vocabulary] of each: what the exits of
    its adapter agree on, or `logits` of states [tokens, H]. `at_once` tokens are multiplied with
    the head together."""
    said: dict[int, Tensor] = {}
    by_exits: dict[HeldExits | None, list[int]] = {}
    for number, course in enumerate(courses):
        by_exits.setdefault(exits.get(course.segment.adapter), []).append(number)
    for held, numbers in by_exits.items():
        last = [(*courses[x].outcomes, courses[x].own[list(courses[x].asked)]) for x in numbers]
        outcomes = [torch.cat(states) for states in zip(*last, strict=True)]
        if held is None:
            rows = torch.cat([logits(states) for states in outcomes[0].split(at_once)])
        else:
            rows = held.voted(head, outcomes, at_once)
        parts = rows.split([len(courses[x].asked) for x in numbers])
        said |= dict(zip(numbers, parts, strict=True))
    return [said[number] for number in range(len(courses))]
