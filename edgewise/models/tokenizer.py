"""Text to token ids and back, by Hugging Face's tokenizers.

They raise whatever they like, plain `Exception` and the template language's errors among it: all of
it becomes ours here. Python code that comes with a model is not run, and nobody is asked about it.
"""

import json
import shutil
from collections.abc import Callable, Mapping, Sequence
from functools import cached_property
from inspect import signature
from pathlib import Path
from types import MappingProxyType
from typing import Any

from edgewise.errors import ModelError, PromptError
from edgewise.models.checkpoint import file_source, gguf_file
from edgewise.models.gguf.tokenizer import gguf_tokenizer, has_tokenizer
from edgewise.models.grammar import Grammars
from edgewise.models.hub import CONFIG
from edgewise.models.safetensors_checkpoint import read_json

FILES = (
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "vocab.json",
    "merges.txt",
    "tokenizer.model",
    "chat_template.jinja",
)
GENERATION = "generation_config.json"


class Tokenizer:
    """Wraps a `transformers` tokenizer; `stop_ids` are the tokens at which an answer ends."""

    def __init__(self, hf: Any, stop_ids: frozenset[int]) -> None:
        self._hf = hf
        self.stop_ids = stop_ids

    @property
    def has_chat_template(self) -> bool:
        return bool(self._hf.chat_template)

    @property
    def template(self) -> str:
        """The chat template's text; "" where there is none."""
        return str(self._hf.chat_template or "")

    @cached_property
    def grammars(self) -> Grammars:
        """What makes grammars over this vocabulary."""
        return Grammars(self._hf, self.stop_ids)

    def encode(self, text: str) -> list[int]:
        """Token ids of a prompt, special tokens as the model expects them. Raises PromptError."""
        if not text:
            raise PromptError("the prompt is empty")
        return self._ids(text, special=True)

    def encode_chat(
        self,
        messages: Sequence[Mapping[str, Any]],
        tools: Sequence[Mapping[str, Any]] = (),
        switches: Mapping[str, Any] = MappingProxyType({}),
    ) -> list[int]:
        """Token ids of a conversation, by the model's chat template, which also gets the `tools`
        that may be called, and `switches` of its own by name. Without a template, of what was said,
        a line each. Raises PromptError."""
        if not self.has_chat_template:
            return self.encode("\n".join(message["content"] for message in messages))
        for message in messages:
            if isinstance(content := message["content"], str):
                _check_text(content)
        if taken := self._reserved & switches.keys():
            raise PromptError(f"'{min(taken)}' is no switch of a chat template")
        try:
            text = self._hf.apply_chat_template(
                list(messages),
                tools=list(tools) or None,
                tokenize=False,
                add_generation_prompt=True,
                **switches,
            )
        except Exception as error:
            raise PromptError(
                f"the model's chat template does not take this conversation: {_words(error)}; "
                "--raw leaves the template out"
            ) from None
        return self._ids(text, special=False)

    def continued(self, text: str) -> list[int]:
        """Token ids of a text that follows others. Raises PromptError."""
        return self._ids(text, special=False)

    @cached_property
    def _reserved(self) -> set[str]:
        """Names that mean something else to transformers than to a template."""
        return {"messages", *signature(self._hf.apply_chat_template).parameters}

    def _ids(self, text: str, *, special: bool) -> list[int]:
        _check_text(text)
        try:
            return list(self._hf(text, add_special_tokens=special)["input_ids"])
        except Exception as error:
            raise PromptError(f"the tokenizer does not take this text: {_words(error)}") from None

    def decode(self, ids: Sequence[int], keep: Sequence[str] = ()) -> str:
        """The text of tokens, special ones left out but those to `keep`. Nothing is tidied up, so
        that the text of more tokens begins with the text of fewer."""
        ids = [token for token in ids if self._special.get(token, "") in ("", *keep)]
        text = self._hf.decode(ids, skip_special_tokens=False, clean_up_tokenization_spaces=False)
        return str(text)

    @cached_property
    def _special(self) -> dict[int, str]:
        """The special tokens, which are no part of a text."""
        added = self._hf.added_tokens_decoder.items()
        return {token: str(text) for token, text in added if text.special}

    def text(self, token: int) -> str:
        """One token as it is shown with its log-probability, special ones as well."""
        return str(self._hf.decode([token], clean_up_tokenization_spaces=False))


def _check_text(text: str) -> None:
    """Raise PromptError where text is none: bytes that are no UTF-8 come as half characters."""
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise PromptError(
            f"the prompt is not UTF-8 text: character {error.start + 1} is {text[error.start]!a}"
        ) from None


def _words(error: Exception) -> str:
    return str(error) or type(error).__name__


def load_tokenizer(model: str | Path) -> Tokenizer:
    """The tokenizer of a folder, GGUF file, hub id or named model. Raises ModelError."""
    # Imported late: it takes seconds, and workers never need it.
    from transformers import AutoTokenizer
    from transformers.utils import logging

    logging.set_verbosity_error()
    if (path := gguf_file(str(model))) is not None:
        return Tokenizer(*gguf_tokenizer(path))
    fetch = file_source(str(model))
    folder = fetch(CONFIG).parent
    if not [name for name in FILES if _has(fetch, name)]:
        raise ModelError(f"{model}: no tokenizer files; looked for {', '.join(FILES)}")
    try:
        hf = AutoTokenizer.from_pretrained(folder, trust_remote_code=False, local_files_only=True)
    except Exception as error:
        raise ModelError(
            f"{model}: the tokenizer in {folder} does not load: {_words(error)}"
        ) from None
    return Tokenizer(hf, _stop_ids(fetch, hf.eos_token_id))


def copy_tokenizer(model: str | Path, folder: Path) -> None:
    """Put the tokenizer of a model, if it has one, into a folder, and at which tokens answers end.
    Raises ModelError, OSError."""
    if (path := gguf_file(str(model))) is not None:
        if not has_tokenizer(path):
            return
        hf, stop_ids = gguf_tokenizer(path)
        hf.save_pretrained(folder)
        ends = json.dumps({"eos_token_id": sorted(stop_ids)}) + "\n"
        (folder / GENERATION).write_text(ends, encoding="utf-8")
        return
    fetch = file_source(str(model))
    for name in (*FILES, GENERATION):
        if _has(fetch, name):
            shutil.copyfile(fetch(name), folder / name)


def _has(fetch: Callable[[str], Path], name: str) -> bool:
    try:
        fetch(name)
    except FileNotFoundError:
        return False
    return True


def _stop_ids(fetch: Callable[[str], Path], eos: int | None) -> frozenset[int]:
    ids = {eos}
    for name in (CONFIG, GENERATION):
        if _has(fetch, name):
            end = read_json(fetch(name)).get("eos_token_id")
            ids.update(end if isinstance(end, list) else [end])
    return frozenset(i for i in ids if i is not None)
