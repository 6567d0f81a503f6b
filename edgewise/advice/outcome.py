"""What rules are, and what they come to."""

from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum

from edgewise.advice.facts import Facts, Variant


class Way(StrEnum):
    """How a model comes to know what it does not."""

    ADAPTER = "adapter"
    RETRIEVAL = "retrieval"
    NEITHER = "neither"


@dataclass(frozen=True, slots=True)
class Spoken:
    """A rule that spoke, and its reason here."""

    rule: "Rule"
    reason: str


@dataclass(frozen=True, slots=True)
class Advice:
    """Which variants are left, the first is advised; which `way`, None: not decided; the adapter's
    kind and rank, hours of learning at most, and records to look things up in at most."""

    variants: tuple[Variant, ...]
    way: Way | None = None
    kind: str | None = None
    rank: int | None = None
    hours: float | None = None
    records: int | None = None
    spoken: tuple[Spoken, ...] = ()

    @property
    def variant(self) -> Variant:
        return self.variants[0]


Said = tuple[Advice, str]  # what is advised from now on, and why
Speak = Callable[[Facts, Advice], Said | None]


@dataclass(frozen=True, slots=True)
class Rule:
    """What it `says`, where that stands, how sure of it we are, which threshold of it is `ours`."""

    name: str
    says: str
    source: str
    tag: str
    ours: str
    speak: Speak
