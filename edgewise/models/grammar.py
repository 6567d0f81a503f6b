"""Grammars that answers keep to, by llguidance: JSON, of a schema or any."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from llguidance import LLMatcher, LLTokenizer

from edgewise.errors import PromptError

ANY_OBJECT = {"type": "object"}
# As JSON is written, in a line or indented. Where any is allowed, some models never stop with it.
SPACED = {"x-guidance": {"whitespace_pattern": r"\n?[ \t]{0,20}"}}


@dataclass(frozen=True, slots=True)
class CompiledGrammar:
    """A compiled grammar; `matcher` begins an answer."""

    start: LLMatcher

    def matcher(self) -> "GrammarMatcher":
        return GrammarMatcher(self.start.deep_copy())


class GrammarMatcher:
    """Where an answer is in a grammar (runtime/engine.py)."""

    def __init__(self, state: LLMatcher) -> None:
        self._state = state

    def allowed(self) -> bytes:
        """The tokens that may follow, a bit for each; the end of an answer where it is whole."""
        return self._state.compute_bitmask()

    def accept(self, token: int) -> None:
        self._state.consume_token(token)


class Grammars:
    """Makes grammars over a vocabulary. `hf`: a `transformers` tokenizer."""

    def __init__(self, hf: Any, stop_ids: frozenset[int]) -> None:
        self._hf, self._stop_ids = hf, stop_ids

    def json(self, schema: Mapping[str, Any] = ANY_OBJECT) -> CompiledGrammar:
        """JSON that a schema describes. Raises PromptError where it is none, or uses what
        llguidance does not know."""
        try:
            grammar = LLMatcher.grammar_from_json_schema(json.dumps({**schema, **SPACED}))
        except (ValueError, RecursionError) as error:
            raise PromptError(f"the answer's format is not understood: {error}") from None
        return self._compiled(grammar)

    def lark(self, text: str) -> CompiledGrammar:
        """What a grammar in llguidance's dialect of Lark describes. Raises PromptError."""
        return self._compiled(LLMatcher.grammar_from_lark(text))

    def literal(self, text: str) -> str:
        """A text in `lark`: a special token where it is one, as "<tool_call>" often is."""
        added = self._hf.added_tokens_decoder.values()
        special = any(str(token) == text and token.special for token in added)
        return text if special and text[0] == "<" else json.dumps(text)

    def _compiled(self, grammar: str) -> CompiledGrammar:
        matcher = LLMatcher(self._vocabulary, grammar, log_level=0)
        if matcher.is_error():
            raise PromptError(f"the answer's format is not understood: {matcher.get_error()}")
        return CompiledGrammar(matcher)

    @cached_property
    def _vocabulary(self) -> LLTokenizer:
        """Takes half a second."""
        from llguidance.hf import from_tokenizer  # imports transformers

        try:
            return from_tokenizer(self._hf, eos_token=sorted(self._stop_ids))
        except ValueError as error:
            raise PromptError(f"this model's answers cannot be given a format: {error}") from None
