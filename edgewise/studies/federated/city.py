"""Four districts of the demo's city, whose questions are of kinds that no other district asks."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from edgewise.demo.facts import FACT_KINDS, FactKind
from edgewise.demo.questions import draw_questions, prompt
from edgewise.models.tokenizer import Tokenizer
from edgewise.tuning.lessons import Lesson, lessons_of
from edgewise.tuning.records import Record, answered

DISTRICTS = ("east", "north", "south", "west")
MOST_FACTS = 2  # of a context: short questions, so that steps are quick
LONGEST = 256  # tokens
LEARNED, HELD_OUT = 48, 12  # questions of a district


@dataclass(frozen=True, slots=True)
class City:
    """What each district learns and judges by, and what all judge by in the end: questions of all
    kinds, about facts that nobody learned."""

    districts: Mapping[str, tuple[list[Lesson], list[Lesson]]]
    union: Sequence[Lesson]

    @property
    def learned(self) -> list[Lesson]:
        """What all districts learn, as one: by turns, so that each batch has of all kinds."""
        each = [learned for learned, _ in self.districts.values()]
        return [lesson for row in zip(*each, strict=True) for lesson in row]


def kinds_of(district: str) -> Sequence[FactKind]:
    return FACT_KINDS[DISTRICTS.index(district) :: len(DISTRICTS)]


def records(kinds: Sequence[FactKind], seed: int, count: int, split: str) -> list[Record]:
    """Questions and answers of these kinds; `split` is "train" or "held_out"."""
    drawn = draw_questions(
        seed, count, "train" if split == "train" else "held_out", kinds, MOST_FACTS
    )
    return [answered(prompt(x.context, x.question), x.answer) for x in drawn]


def city_of(tokenizer: Tokenizer, judged: int) -> City:
    """Of the same seeds each time; all is judged by `judged` questions, a quarter a district."""

    def lessons(kinds: Sequence[FactKind], seed: int, count: int, split: str) -> list[Lesson]:
        return lessons_of(records(kinds, seed, count, split), tokenizer, LONGEST)

    districts, union = dict[str, tuple[list[Lesson], list[Lesson]]](), list[Lesson]()
    for number, name in enumerate(DISTRICTS):
        kinds = kinds_of(name)
        learned = lessons(kinds, 10 + number, LEARNED, "train")
        own = lessons(kinds, 20 + number, HELD_OUT, "train")
        districts[name] = learned, own
        union += lessons(kinds, 30 + number, judged // len(DISTRICTS), "held_out")
    return City(districts, union)
