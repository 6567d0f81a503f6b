"""What advice is given on: models in schemes on these devices, the task, the data, the time."""

from dataclasses import dataclass
from enum import StrEnum

from edgewise.errors import InputError


class Task(StrEnum):
    """How hard it is; the paper leaves open what that means (docs/studies/guidelines.md)."""

    EASY = "easy"
    MODERATE = "moderate"
    HARD = "hard"


@dataclass(frozen=True, slots=True)
class Variant:
    """A model in a scheme on the devices. `bits` are those of a block's weight, scales included;
    `needed_bytes` are for answering, `learning_bytes` for adapting, at least. Where it was
    `measured`, a plan says whether it `fits`, what a token takes, and what reading a record does;
    else only bytes are known, by the model's shape."""

    model: str
    scheme: str
    weights: int
    bits: float
    needed_bytes: int
    learning_bytes: int
    fits: bool
    decode_seconds: float | None = None
    record_seconds: float | None = None

    @property
    def measured(self) -> bool:
        return self.decode_seconds is not None

    def __str__(self) -> str:
        return f"{self.model} in {self.scheme}"


@dataclass(frozen=True, slots=True)
class Facts:
    """`samples` are records to learn from or to look things up in, `hours` those that learning may
    take; None: nobody said. `room_bytes` is the devices' memory, `source_bytes` that of the one
    which learns. Raises InputError where wishes contradict each other."""

    variants: tuple[Variant, ...]
    room_bytes: int
    source_bytes: int
    task: Task | None = None
    samples: int | None = None
    hours: float | None = None

    def __post_init__(self) -> None:
        if not self.variants:
            raise InputError("advice needs at least one model to choose from")
        if self.samples is not None and self.samples < 0:
            raise InputError(f"--samples must be zero or more, not {self.samples}")
        if self.hours is not None and not self.hours >= 0:
            raise InputError(f"--hours must be zero or more, not {self.hours:g}")
        if self.samples == 0 and self.hours:
            raise InputError(
                f"--samples 0 leaves nothing to learn from in --hours {self.hours:g}: say how many "
                "records there are, or leave the hours out"
            )
