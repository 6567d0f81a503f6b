"""The demo city's questions: reproducible, answerable, and truly held out. Needs no torch."""

import random
import subprocess
import sys

import pytest
from tokenizers import Tokenizer

from edgewise.demo import MODEL_FOLDER
from edgewise.demo.facts import FACT_KINDS
from edgewise.demo.questions import (
    END_OF_TEXT,
    MAX_FACTS,
    Split,
    draw_episode,
    draw_facts,
    draw_questions,
    is_held_out,
    prompt,
    same_answer,
    training_pieces,
    training_text,
)

SPLITS: tuple[Split, Split] = ("train", "held_out")


def combinations(split: Split, facts: int) -> set[tuple[str, str, str]]:
    rng = random.Random(7)
    drawn = (fact for _ in range(facts // 5) for fact in draw_facts(rng, 5, split))
    return {(fact.kind.name, fact.subject, fact.value) for fact in drawn}


def test_a_seed_fixes_the_questions() -> None:
    assert draw_questions(3, 50) == draw_questions(3, 50)
    assert draw_questions(3, 50) != draw_questions(4, 50)


def test_the_held_out_combinations_never_change() -> None:
    # Were they to change, a model trained earlier would be tested on what it has seen.
    assert [n for n in range(2, 60) if is_held_out("sensor", "37", str(n))] == [
        7, 8, 13, 19, 20, 30, 31, 34, 35, 40, 48,
    ]  # fmt: skip


def test_training_draws_are_disjoint_from_held_out_draws() -> None:
    train, held_out = combinations("train", 20_000), combinations("held_out", 20_000)
    assert len(train) > 10_000
    assert len(held_out) > 2_000
    assert not train & held_out


def test_about_a_tenth_is_held_out() -> None:
    every = [(k.name, s, v) for k in FACT_KINDS for s in k.subjects for v in k.values]
    assert 0.09 < sum(is_held_out(*combination) for combination in every) / len(every) < 0.11


@pytest.mark.parametrize("split", SPLITS)
def test_answers_are_in_the_context(split: Split) -> None:
    for question in draw_questions(5, 500, split):
        assert question.value in question.context
        assert question.value in question.answer
        assert question.question.endswith("?")


@pytest.mark.parametrize("split", SPLITS)
def test_the_facts_of_a_context_are_of_different_kinds(split: Split) -> None:
    rng = random.Random(1)
    for _ in range(500):
        facts = draw_facts(rng, MAX_FACTS, split)
        assert len({fact.kind.name for fact in facts}) == MAX_FACTS


def test_every_kind_is_asked_about() -> None:
    answers = {question.answer for question in draw_questions(5, 1_000)}
    for kind in FACT_KINDS:
        start = kind.statements[0].split("{")[0]
        assert any(answer.startswith(start) for answer in answers), kind.name


def test_kinds_can_be_told_apart() -> None:
    questions = [text for kind in FACT_KINDS for text in kind.questions]
    statements = [text for kind in FACT_KINDS for text in kind.statements]
    assert len(set(questions)) == len(questions)
    assert len(set(statements)) == len(statements)
    assert all("{subject}" in text for text in questions)
    assert all("{subject}" in text and "{value}" in text for text in statements)


def test_a_training_text_goes_on_from_the_prompt() -> None:
    episode = draw_episode(random.Random(2), 4, 3)
    first = episode.questions[0]
    text = training_text(episode)
    expected = f"{prompt(first.context, first.question)} {first.answer}{END_OF_TEXT}"
    assert text.startswith(expected)
    assert len(episode.questions) == text.count(END_OF_TEXT) == 3
    answers = [piece for piece, is_answer in training_pieces(episode) if is_answer]
    assert answers == [f" {question.answer}{END_OF_TEXT}" for question in episode.questions]


@pytest.mark.parametrize(
    ("answer", "right"),
    [
        ("Sensor 12 reads 7 degrees.", True),
        ("  sensor 12\nreads  7 degrees.", True),
        ("Sensor 12 reads 8 degrees.", False),
        ("Sensor 12 reads 7 degrees. ", True),
        ("Sensor 12 reads 7 degrees", False),
        ("7", False),
        ("", False),
    ],
)
def test_exact_match(answer: str, right: bool) -> None:
    assert same_answer(answer, "Sensor 12 reads 7 degrees.") is right


def test_drawing_questions_needs_no_torch() -> None:
    code = "import sys, edgewise.demo.questions; assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    return Tokenizer.from_file(str(MODEL_FOLDER / "tokenizer.json"))


def test_prompts_fit_the_model(tokenizer: Tokenizer) -> None:
    for question in draw_questions(9, 300):
        assert len(tokenizer.encode(prompt(question.context, question.question)).ids) < 128
    rng = random.Random(9)
    for _ in range(100):
        assert len(tokenizer.encode(training_text(draw_episode(rng, 8, 8))).ids) < 512


@pytest.mark.parametrize(
    "text",
    [
        "Grüße aus Zürich",
        "你好世界",
        "🚗🅿️ 37",
        " \n\t x  y ",
        "a\x00b",
        "1234567",
        "<a href='x'>",
    ],
)
def test_any_text_survives_the_tokenizer(tokenizer: Tokenizer, text: str) -> None:
    assert tokenizer.decode(tokenizer.encode(text).ids) == text


def test_every_digit_is_a_token(tokenizer: Tokenizer) -> None:
    tokens = [token.strip("Ġ") for token in tokenizer.encode("lot 1234 has 56").tokens]
    assert [token for token in tokens if token.isdigit()] == list("123456")


def test_pieces_tokenize_like_the_whole(tokenizer: Tokenizer) -> None:
    rng = random.Random(4)
    for _ in range(50):
        episode = draw_episode(rng, 5, 5)
        apart = [i for text, _ in training_pieces(episode) for i in tokenizer.encode(text).ids]
        assert apart == tokenizer.encode(training_text(episode)).ids
