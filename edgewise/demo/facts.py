"""What the demo city can say: kinds of facts, with their subjects, values and phrasings.

Every kind has two ways to state a fact and two ways to ask for it. The first statement is also the
answer, so an answer is always a whole sentence that restates its subject.

Three rules keep this world learnable by a small model in minutes. Statements name the subject
before the value. Values are numbers or times, never names that could also be subjects. And no kind
has so few values that a model could remember which ones training withholds from a subject.
"""

from dataclasses import dataclass
from typing import Final

PLACES: Final[tuple[str, ...]] = (
    "Harbour", "Mill", "Oak", "Station", "Castle", "Garden", "River", "Hill",
    "Church", "King", "Queen", "Lake", "Forest", "Tower", "Elm", "Maple",
    "Cedar", "Rose", "North", "South", "East", "West", "Victoria", "Lincoln",
    "Canal", "Orchard", "Meadow", "Summit", "Temple", "Stone", "Silver", "Sunset",
    "Beach", "Valley", "Abbey", "Brook", "Palace", "Crown", "Willow", "Ivy",
    "Lily", "Swan", "Eagle", "Fox", "Amber", "Copper", "Pearl", "Dawn",
)  # fmt: skip


@dataclass(frozen=True)
class FactKind:
    """One kind of fact; templates name `{subject}` and, in statements, `{value}`."""

    name: str
    subjects: tuple[str, ...]
    values: tuple[str, ...]
    statements: tuple[str, ...]
    questions: tuple[str, ...]

    def state(self, subject: str, value: str, phrasing: int = 0) -> str:
        """The fact as a sentence; phrasing 0 is the one answers use."""
        return self.statements[phrasing].format(subject=subject, value=value)

    def ask(self, subject: str, phrasing: int = 0) -> str:
        """The question whose answer is this fact."""
        return self.questions[phrasing].format(subject=subject)


def _numbers(first: int, last: int) -> tuple[str, ...]:
    """The whole numbers from `first` to `last`, both included, as text."""
    return tuple(str(number) for number in range(first, last + 1))


def _times(first_hour: int, last_hour: int) -> tuple[str, ...]:
    """Every five minutes from the first hour to the end of the last, as `hh:mm`."""
    hours = range(first_hour, last_hour + 1)
    return tuple(f"{hour:02d}:{minute:02d}" for hour in hours for minute in range(0, 60, 5))


_IDS: Final = _numbers(10, 99)

FACT_KINDS: Final[tuple[FactKind, ...]] = (
    FactKind(
        "parking", _IDS, _numbers(2, 250),
        ("Parking lot {subject} has {value} free places.",
         "In parking lot {subject} there are {value} free places."),
        ("How many free places does parking lot {subject} have?",
         "How many places are free in parking lot {subject}?"),
    ),
    FactKind(
        "charging", _IDS, _numbers(2, 60),
        ("Charging station {subject} has {value} free plugs.",
         "At charging station {subject} there are {value} free plugs."),
        ("How many free plugs does charging station {subject} have?",
         "How many plugs are free at charging station {subject}?"),
    ),
    FactKind(
        "bicycles", PLACES, _numbers(2, 80),
        ("The {subject} bicycle stand has {value} bicycles.",
         "At the {subject} bicycle stand there are {value} bicycles."),
        ("How many bicycles does the {subject} bicycle stand have?",
         "How many bicycles are at the {subject} bicycle stand?"),
    ),
    FactKind(
        "tram", _IDS, _numbers(2, 45),
        ("Tram line {subject} runs every {value} minutes.",
         "On tram line {subject} there is a tram every {value} minutes."),
        ("How often does tram line {subject} run?",
         "How many minutes are between trams on tram line {subject}?"),
    ),
    FactKind(
        "traffic", PLACES, _numbers(5, 99),
        ("Traffic on {subject} Street moves at {value} km/h.",
         "On {subject} Street cars drive at {value} km/h."),
        ("How fast does traffic on {subject} Street move?",
         "At what speed do cars drive on {subject} Street?"),
    ),
    FactKind(
        "sensor", _IDS, _numbers(2, 49),
        ("Sensor {subject} reads {value} degrees.",
         "At sensor {subject} it is {value} degrees."),
        ("What temperature does sensor {subject} read?",
         "How warm is it at sensor {subject}?"),
    ),
    FactKind(
        "air", PLACES, _numbers(5, 199),
        ("The air quality index in {subject} District is {value}.",
         "{subject} District has an air quality index of {value}."),
        ("What is the air quality index in {subject} District?",
         "Which air quality index does {subject} District have?"),
    ),
    FactKind(
        "bin", _IDS, _numbers(2, 99),
        ("Waste bin {subject} is {value} percent full.",
         "The level of waste bin {subject} is {value} percent."),
        ("How full is waste bin {subject}?",
         "What is the level of waste bin {subject}?"),
    ),
    FactKind(
        "library", PLACES, _times(7, 11),
        ("The {subject} library opens at {value}.",
         "The {subject} library is open from {value}."),
        ("When does the {subject} library open?",
         "From what time is the {subject} library open?"),
    ),
    FactKind(
        "museum", PLACES, _times(16, 21),
        ("The {subject} museum closes at {value}.",
         "The {subject} museum is open until {value}."),
        ("When does the {subject} museum close?",
         "Until what time is the {subject} museum open?"),
    ),
    FactKind(
        "market", PLACES, _numbers(5, 120),
        ("The {subject} market has {value} stalls.",
         "At the {subject} market there are {value} stalls."),
        ("How many stalls does the {subject} market have?",
         "How many stalls are at the {subject} market?"),
    ),
)  # fmt: skip
