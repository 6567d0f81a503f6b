"""What a model is adapted to: JSON lines of prompts and answers, of conversations, or a text."""

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from edgewise.errors import InputError
from edgewise.texts import numbered_lines, read_text

ROLES = ("system", "user", "assistant")


@dataclass(frozen=True, slots=True)
class Record:
    """A conversation whose last turn, the answer, is to be learned; or with no turns before it, a
    text all of which is."""

    turns: tuple[Mapping[str, str], ...]
    answer: str


def answered(prompt: str, answer: str) -> Record:
    """One question, and its answer."""
    return Record(({"role": "user", "content": prompt},), answer)


def read_records(path: Path) -> list[Record]:
    """A file's records: `.jsonl` has one a line, {"prompt": ..., "answer": ...} or {"messages":
    [...]} that ends with the assistant's; anything else is one text. Raises InputError, which names
    the file, the line and what is wrong there."""
    text = read_text(path)
    records = list(_lines(text, path)) if path.suffix == ".jsonl" else [Record((), text)]
    if not any(record.answer.strip() for record in records):
        raise InputError(f"{path}: holds nothing to learn")
    return records


def _lines(text: str, path: Path) -> Iterator[Record]:
    for number, line in numbered_lines(text):
        try:
            yield record_of(json.loads(line))
        except (json.JSONDecodeError, RecursionError) as error:
            raise InputError(f"{path}: line {number}: not JSON ({error})") from None
        except ValueError as error:
            raise InputError(f"{path}: line {number}: {error}") from None


def record_of(line: Any) -> Record:
    """One line's. Raises ValueError."""
    if not isinstance(line, dict):
        raise ValueError(f"expected an object, not {type(line).__name__}")
    if line.keys() == {"prompt", "answer"}:
        for key, value in line.items():
            _check_text(key, value)
        return answered(line["prompt"], line["answer"])
    if line.keys() == {"messages"}:
        return _conversation(line["messages"])
    raise ValueError(
        f'expected the keys "prompt" and "answer", or "messages" alone, not {sorted(line)}'
    )


def _conversation(messages: Any) -> Record:
    if not isinstance(messages, list) or not messages:
        raise ValueError('"messages" must be a list of at least one message')
    for number, message in enumerate(messages):
        if not isinstance(message, dict) or message.keys() != {"role", "content"}:
            raise ValueError(f'message {number} must have "role" and "content", and nothing else')
        if message["role"] not in ROLES:
            raise ValueError(f"message {number}: role must be one of {', '.join(ROLES)}")
        _check_text(f"message {number}", message["content"])
    *turns, last = messages
    if last["role"] != "assistant" or not turns:
        raise ValueError("the last message must be the assistant's answer to those before it")
    return Record(tuple(turns), last["content"])


def _check_text(name: str, value: Any) -> None:
    if not isinstance(value, str) or not value.strip():
        raise ValueError(f"{name} must be text that is not empty")
