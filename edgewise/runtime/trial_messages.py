"""What a worker is told when layers are timed."""

from edgewise.runtime.messages import Message
from edgewise.specs import NO_EXTRA, ExtraWork


class Prepare(Message, frozen=True):
    """Make layers [start, end) of a model with random weights, to be timed with `extra` work.
    `shape` is a ModelShape as JSON."""

    shape: str
    start: int
    end: int
    scheme: str
    slots: int
    context: int
    extra: ExtraWork = NO_EXTRA


class Prepared(Message, frozen=True):
    """So many bytes of weights."""

    size: int


class Time(Message, frozen=True):
    """Run what was prepared once: so many sequences of so many tokens after `past` others."""

    sequences: int
    tokens: int
    past: int


class Timed(Message, frozen=True):
    seconds: float
