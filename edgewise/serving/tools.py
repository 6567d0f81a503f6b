"""Calls of tools in an answer, as the model's family writes them.

| family | writes |
|---|---|
| Hermes, Qwen | `<tool_call>{"name": ..., "arguments": {...}}</tool_call>`, repeated |
| Mistral | `[TOOL_CALLS][{"name": ..., "arguments": {...}}]`, or |
| | `[TOOL_CALLS]name[ARGS]{...}`, repeated |
| Llama 3 | `{"name": ..., "parameters": {...}}` as the whole answer, repeated with `;` between |

Text that turns out to be no call is given out as text.
"""

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from edgewise.errors import PromptError
from edgewise.models.grammar import SPACED, CompiledGrammar, Grammars
from edgewise.models.text_stream import overlap


@dataclass(frozen=True, slots=True)
class Call:
    """`arguments`: a JSON object, as text."""

    name: str
    arguments: str


@dataclass(frozen=True, slots=True)
class ToolFormat:
    """Calls begin with `begin`, a whole answer of them where `whole`, and end with `end`, "" for
    the answer's end. `parse` makes calls of what is between, and raises ValueError. `keep`: special
    tokens that are part of it. `argument`: what arguments are called."""

    begin: str
    end: str
    parse: Callable[[str], list[Call]]
    keep: tuple[str, ...] = ()
    whole: bool = False
    argument: str = "arguments"


def tool_format(template: str) -> ToolFormat | None:
    """How the family with this chat template writes calls; None where it has no tools."""
    if "tools" not in template:
        return None
    return next((known for sign, known in _FORMATS.items() if sign in template), None)


@dataclass(slots=True)
class ToolReader:
    """An answer's text in, text and calls out, as soon as it is certain which they are."""

    known: ToolFormat
    _text: str = ""
    _seen: int = 0  # of it: end marks up to there are within strings
    _began: bool = False  # any text was given out, or a call
    calls: int = field(default=0)

    def push(self, text: str) -> tuple[str, list[Call]]:
        """What is certain now."""
        self._text += text
        out, calls = "", list[Call]()
        while True:
            before, inside, rest = self._split()
            out += before
            if inside is None:
                break
            read = self._read(inside)
            calls += read
            out += "" if read else self.known.begin + inside + self.known.end
            self._text, self._seen = rest, 0
        return out, self._counted(calls)

    def flush(self) -> tuple[str, list[Call]]:
        """The rest, at the answer's end."""
        text, self._text = self._text, ""
        if not text.lstrip().startswith(self.known.begin):
            return text, []
        calls = self._read(text.lstrip().removeprefix(self.known.begin))
        return ("" if calls else text), self._counted(calls)

    def _split(self) -> tuple[str, str | None, str]:
        """Text before the first call, its inside where it has ended, and what follows. `_text` is
        then what may be one."""
        begin, end, text = self.known.begin, self.known.end, self._text
        if self.known.whole:
            if self._began or not begin.startswith(text.lstrip()[: len(begin)]):
                self._began, self._text = True, ""
                return text, None, ""
            return "", None, ""
        at = text.find(begin)
        if at < 0:
            at = len(text) - overlap(text, begin)
            self._text = text[at:]
            return text[:at], None, ""
        until = self._end_of(text, at)
        if until < 0:
            self._text = text[at:]
            return text[:at], None, ""
        return text[:at], text[at + len(begin) : until], text[until + len(end) :]

    def _end_of(self, text: str, at: int) -> int:
        """Where the call ends that begins at `at`, -1 where that is not certain yet. An end mark
        within a string of its arguments is none, where a call comes of that."""
        end, inside = self.known.end, at + len(self.known.begin)
        if not end:
            return -1
        until = text.find(end, max(inside, at + self._seen))
        while until >= 0 and _within_string(text[inside:until]):
            self._seen = until + len(end) - at
            until = text.find(end, at + self._seen)
        if until >= 0 and self._seen and not self._read(text[inside:until]):
            return text.find(end, inside)
        return until

    def _read(self, inside: str) -> list[Call]:
        try:
            return self.known.parse(inside)
        except (ValueError, KeyError, TypeError, RecursionError):
            return []

    def _counted(self, calls: list[Call]) -> list[Call]:
        self.calls += len(calls)
        return calls


def must_call(
    grammars: Grammars, known: ToolFormat, functions: Sequence[Mapping[str, Any]]
) -> CompiledGrammar:
    """Answers that are one call of one of these functions. Raises PromptError."""
    one = [_schema(function, known.argument) for function in functions]
    schema = {"anyOf": one} if len(one) > 1 else one[0]
    if known.whole:
        return grammars.json(schema)
    if known is not HERMES:
        raise PromptError(
            "this model's calls cannot be asked for, only allowed: tool_choice 'auto'"
        )
    begin, end = (grammars.literal(mark) for mark in (known.begin, known.end))
    text = json.dumps({**schema, **SPACED})
    return grammars.lark(f'start: {begin} "\\n" call "\\n" {end}\ncall: %json {text}')


def _schema(function: Mapping[str, Any], argument: str) -> dict[str, Any]:
    parameters = function.get("parameters") or {"type": "object"}
    return {
        "type": "object",
        "properties": {"name": {"const": function["name"]}, argument: parameters},
        "required": ["name", argument],
        "additionalProperties": False,
    }


def _within_string(text: str) -> bool:
    """Whether JSON that begins with it goes on within a string."""
    try:
        json.loads(text)
    except json.JSONDecodeError as error:
        return error.msg.startswith("Unterminated string")
    except RecursionError:
        pass
    return False


def _call(said: Any) -> Call:
    arguments = said["parameters"] if "parameters" in said else said.get("arguments", {})
    if not isinstance(said["name"], str) or not isinstance(arguments, dict):
        raise ValueError("a call has a name, and arguments by name")
    return Call(said["name"], json.dumps(arguments, ensure_ascii=False))


def _hermes(text: str) -> list[Call]:
    return [_call(json.loads(text))]


def _mistral(text: str) -> list[Call]:
    decoder, calls = json.JSONDecoder(), list[Call]()
    if "[ARGS]" not in text:
        said, _ = decoder.raw_decode(text.lstrip())
        return [_call(one) for one in said]
    while text:
        name, _, text = text.partition("[ARGS]")
        arguments, at = decoder.raw_decode(text := text.lstrip())
        calls.append(_call({"name": name.strip(), "arguments": arguments}))
        text = text[at:].strip()
        if text and not text.startswith("[TOOL_CALLS]"):
            raise ValueError("something follows a call")
        text = text.removeprefix("[TOOL_CALLS]")
    return calls


def _llama(text: str) -> list[Call]:
    decoder, calls, text = json.JSONDecoder(), list[Call](), "{" + text.strip()
    while text:
        said, at = decoder.raw_decode(text)
        calls.append(_call(said))
        text = text[at:].lstrip().removeprefix(";").lstrip()
    return calls


HERMES = ToolFormat("<tool_call>", "</tool_call>", _hermes, ("<tool_call>", "</tool_call>"))
MISTRAL = ToolFormat("[TOOL_CALLS]", "", _mistral, ("[TOOL_CALLS]", "[ARGS]"))
LLAMA = ToolFormat("{", "", _llama, whole=True, argument="parameters")
_FORMATS = {"[TOOL_CALLS]": MISTRAL, "<tool_call>": HERMES, '"parameters"': LLAMA}
