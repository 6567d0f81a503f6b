"""Questions with right answers: the demo's own, or a file's in SQuAD's format or one a line."""

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

from edgewise.demo.questions import draw_questions, prompt
from edgewise.errors import InputError
from edgewise.texts import numbered_lines, read_text

DEMO_SEED = 2026  # of the questions that the demo model is judged by


@dataclass(frozen=True, slots=True)
class Example:
    """What a model is given, and what it may answer."""

    prompt: str
    answers: tuple[str, ...]


def load_examples(path: Path | None, limit: int) -> list[Example]:
    """At most `limit` examples of a file, or of the demo's held-out questions. Raises InputError,
    which names the file and the line or the key."""
    if path is None:
        drawn = draw_questions(DEMO_SEED, limit)
        return [Example(prompt(x.context, x.question), (x.answer,)) for x in drawn]
    text = read_text(path)
    read = _lines if path.suffix == ".jsonl" else _squad
    examples = list(islice(read(text, str(path)), limit))
    if not examples:
        raise InputError(f"{path}: holds no question with an answer")
    return examples


def _squad(text: str, where: str) -> Iterator[Example]:
    """SQuAD 1.1 and 2.0: data, paragraphs, qas. Questions without an answer are left out."""
    try:
        for article in json.loads(text)["data"]:
            for paragraph in article["paragraphs"]:
                for asked in paragraph["qas"]:
                    answers = tuple(dict.fromkeys(answer["text"] for answer in asked["answers"]))
                    if answers:
                        yield Example(prompt(paragraph["context"], asked["question"]), answers)
    except (json.JSONDecodeError, RecursionError) as error:
        raise InputError(
            f"{where}: not JSON ({error}); for one question a line, name the file .jsonl"
        ) from None
    except KeyError as error:
        raise InputError(f"{where}: not in SQuAD's format: key {error} is missing") from None
    except (TypeError, AttributeError) as error:
        raise InputError(f"{where}: not in SQuAD's format: {error}") from None


def _lines(text: str, where: str) -> Iterator[Example]:
    for number, line in numbered_lines(text):
        try:
            yield _example(json.loads(line))
        except (ValueError, TypeError, KeyError, RecursionError) as error:
            reason = f"key {error} is missing" if isinstance(error, KeyError) else str(error)
            raise InputError(f"{where}, line {number}: {reason}") from None


def _example(row: Mapping[str, Any]) -> Example:
    """{"prompt", "answer"} or {"context", "question", "answer"}; "answers" is a list of them."""
    if not isinstance(row, dict):
        raise TypeError("not a JSON object")
    answers = row["answers"] if "answers" in row else [row["answer"]]
    if isinstance(answers, dict):  # as the data set's own rows have it
        answers = answers["text"]
    if not (isinstance(answers, list) and answers and all(isinstance(x, str) for x in answers)):
        raise TypeError("'answers' must be a list of texts")
    asked = row["prompt"] if "prompt" in row else prompt(row["context"], row["question"])
    if not isinstance(asked, str):
        raise TypeError("'prompt' must be a text")
    return Example(asked, tuple(answers))
