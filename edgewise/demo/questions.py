"""Questions about a smart city, answerable from a short context: the demo model's world.

A context states one to five facts of different kinds and a question asks for one of them: a model
has to find the kind that is asked for, restate the subject and copy the value.

Everything is drawn from a `random.Random`, so a seed fixes it. One tenth of all (kind, subject,
value) combinations, chosen by a hash that never changes, is held out: training contexts and answers
never state such a combination, evaluation contexts and answers state nothing else. A model that
answers held-out questions has therefore read the context; it cannot have remembered the answer.

Text format, with `<|end|>` the end-of-text token::

    context
    question
    Answer: a sentence.<|end|>

A training text may go on with more questions (`question`, `Answer: ...`) about the same context.
"""

import hashlib
import random
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, Literal

from edgewise.demo.facts import FACT_KINDS, FactKind

Split = Literal["train", "held_out"]

END_OF_TEXT: Final = "<|end|>"
ANSWER_CUE: Final = "Answer:"
MAX_FACTS: Final = 5
HELD_OUT_DIVISOR: Final = 10


@dataclass(frozen=True)
class Fact:
    """A subject of some kind, and its value."""

    kind: FactKind
    subject: str
    value: str

    @property
    def answer(self) -> str:
        """The sentence that answers a question about this fact."""
        return self.kind.state(self.subject, self.value)


@dataclass(frozen=True)
class Question:
    """One question; `value` is the short span inside the sentence `answer`."""

    context: str
    question: str
    answer: str
    value: str


@dataclass(frozen=True)
class Episode:
    """One context with several questions about it, each with its answer."""

    context: str
    questions: tuple[Question, ...]


def is_held_out(kind: str, subject: str, value: str) -> bool:
    """Whether a combination belongs to the tenth that training never sees."""
    digest = hashlib.sha256(f"{kind}|{subject}|{value}".encode()).digest()
    return int.from_bytes(digest[:8], "big") % HELD_OUT_DIVISOR == 0


def draw_facts(
    rng: random.Random, count: int, split: Split, kinds: Sequence[FactKind] = FACT_KINDS
) -> tuple[Fact, ...]:
    """`count` facts of one split, each of another of the `kinds`."""
    return tuple(_draw_fact(rng, kind, split) for kind in rng.sample(kinds, count))


def _draw_fact(rng: random.Random, kind: FactKind, split: Split) -> Fact:
    """A fact of a kind and split."""
    while True:
        subject, value = rng.choice(kind.subjects), rng.choice(kind.values)
        if is_held_out(kind.name, subject, value) == (split == "held_out"):
            return Fact(kind, subject, value)


def draw_episode(
    rng: random.Random,
    fact_count: int,
    question_count: int,
    split: Split = "train",
    kinds: Sequence[FactKind] = FACT_KINDS,
) -> Episode:
    """A context of `fact_count` facts and up to that many questions, about different facts."""
    facts = draw_facts(rng, fact_count, split, kinds)
    context = " ".join(
        fact.kind.state(fact.subject, fact.value, rng.randrange(len(fact.kind.statements)))
        for fact in facts
    )
    asked = rng.sample(facts, min(question_count, fact_count))
    return Episode(context, tuple(_ask(rng, context, fact) for fact in asked))


def _ask(rng: random.Random, context: str, fact: Fact) -> Question:
    """A question about a fact, in one of its phrasings."""
    question = fact.kind.ask(fact.subject, rng.randrange(len(fact.kind.questions)))
    return Question(context, question, fact.answer, fact.value)


def draw_questions(
    seed: int,
    count: int,
    split: Split = "held_out",
    kinds: Sequence[FactKind] = FACT_KINDS,
    most_facts: int = MAX_FACTS,
) -> tuple[Question, ...]:
    """`count` questions, each with a context of its own of one to `most_facts` facts."""
    rng = random.Random(seed)
    return tuple(
        draw_episode(rng, rng.randint(1, most_facts), 1, split, kinds).questions[0]
        for _ in range(count)
    )


def prompt(context: str, question: str) -> str:
    """The text a model continues with a space, the answer and `END_OF_TEXT`."""
    return f"{context}\n{question}\n{ANSWER_CUE}"


def training_pieces(episode: Episode, separator: str = "\n") -> Sequence[tuple[str, bool]]:
    """An episode's text in pieces, each with whether it is an answer (to learn in full).

    `separator` lies between the context and the first question: people type a space there.
    """
    pieces: list[tuple[str, bool]] = []
    start = f"{episode.context}{separator}"
    for question in episode.questions:
        pieces.append((f"{start}{question.question}\n{ANSWER_CUE}", False))
        pieces.append((f" {question.answer}{END_OF_TEXT}", True))
        start = "\n"
    return pieces


def training_text(episode: Episode, separator: str = "\n") -> str:
    """The whole text of an episode."""
    return "".join(text for text, _ in training_pieces(episode, separator))


def same_answer(answer: str, expected: str) -> bool:
    """Whether two answers agree up to case and white space."""
    return _normalised(answer) == _normalised(expected)


def _normalised(text: str) -> str:
    """Lower case, single spaces, nothing around."""
    return " ".join(text.lower().split())
