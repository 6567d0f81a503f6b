"""Which sequences of a step run together: those whose numbers stay the same in any company.

The kernels compute a token's numbers alike whatever runs beside it, torch does not promise that,
and takes over from the kernels beyond some tokens of a step (`kernels.most_tokens`). So a step is
divided into groups that take, each sequence, the way that it would take alone.
"""

from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate

from edgewise.models.cache import Segment


@dataclass(frozen=True, slots=True)
class Group:
    """Segments that run together, and which of the step's tokens are theirs, in order."""

    segments: list[Segment]
    tokens: list[int]


def in_groups(segments: Sequence[Segment], most: int) -> list[Group]:
    """Segments of up to `most` tokens in groups of at most so many, longer ones each alone; with
    `most` 0 all of them together."""
    total = sum(segment.length for segment in segments)
    if not most or total <= most:
        return [Group(list(segments), list(range(total)))]
    groups: list[Group] = []
    shared, room = Group([], []), 0
    ends = accumulate(segment.length for segment in segments)
    for segment, end in zip(segments, ends, strict=True):
        group = shared
        if segment.length > room:
            group = Group([], [])
            groups.append(group)
        if segment.length <= most:
            room = (room if group is shared else most) - segment.length
            shared = group
        group.segments.append(segment)
        group.tokens.extend(range(end - segment.length, end))
    return groups


def owners(segments: Sequence[Segment], rows: Sequence[int]) -> list[int]:
    """The sequence that each of these rows belongs to, where the segments' tokens lie one after the
    other."""
    ends = list(accumulate(segment.length for segment in segments))
    return [segments[bisect_right(ends, row)].sequence for row in rows]
