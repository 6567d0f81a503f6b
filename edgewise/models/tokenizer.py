"""Text to token ids and back, by Hugging Face's tokenizers, with a decoder for streams."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from edgewise.errors import ModelError, PromptError
from edgewise.models.checkpoint import file_source, gguf_file, read_json
from edgewise.models.gguf.tokenizer import gguf_tokenizer

FILES = (
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "vocab.json",
    "merges.txt",
    "tokenizer.model",
    "chat_template.jinja",
)


class Tokenizer:
    """Wraps a `transformers` tokenizer; `stop_ids` are the tokens at which an answer ends."""

    def __init__(self, hf: Any, stop_ids: frozenset[int]) -> None:
        self._hf = hf
        self.stop_ids = stop_ids

    @property
    def has_chat_template(self) -> bool:
        return bool(self._hf.chat_template)

    def encode(self, text: str) -> list[int]:
        """Token ids of a prompt, special tokens as the model expects them. Raises PromptError."""
        if not text:
            raise PromptError("the prompt is empty")
        return list(self._hf(text)["input_ids"])

    def encode_chat(self, messages: Sequence[dict[str, str]]) -> list[int]:
        """Token ids of a conversation, by the model's chat template. Raises PromptError."""
        if not self.has_chat_template:
            raise PromptError("this model has no chat template; give a plain prompt")
        text = self._hf.apply_chat_template(
            list(messages), tokenize=False, add_generation_prompt=True
        )
        return list(self._hf(text, add_special_tokens=False)["input_ids"])

    def decode(self, ids: Sequence[int]) -> str:
        return str(self._hf.decode(ids, skip_special_tokens=True))


class TextStream:
    """Token ids in, printable text out. Text that may still change is held back: bytes of an
    unfinished character, and a beginning of a stop string."""

    def __init__(self, decode: Callable[[Sequence[int]], str], stop: Sequence[str] = ()) -> None:
        self._decode, self._stop = decode, [s for s in stop if s]
        self._ids: list[int] = []
        self._sent = 0
        self.stopped = False

    def push(self, token: int) -> str:
        """The text that this token makes certain; sets `stopped` where a stop string ends it."""
        self._ids.append(token)
        text = self._decode(self._ids)
        if self._cut(text) is not None:
            return self.flush()
        certain = text.rstrip("\N{REPLACEMENT CHARACTER}")
        longest = max((_overlap(certain, stop) for stop in self._stop), default=0)
        return self._send(certain, len(certain) - longest)

    def flush(self) -> str:
        """What was held back, up to a stop string."""
        text = self._decode(self._ids)
        end = self._cut(text)
        self.stopped = end is not None
        return self._send(text, len(text) if end is None else end)

    def _cut(self, text: str) -> int | None:
        found = [at for at in (text.find(stop) for stop in self._stop) if at >= 0]
        return min(found, default=None)

    def _send(self, text: str, end: int) -> str:
        new = text[self._sent : end]
        self._sent = max(self._sent, end)
        return new


def _overlap(text: str, stop: str) -> int:
    """Length of the longest beginning of `stop` that `text` ends with."""
    return next((n for n in range(min(len(stop), len(text)), 0, -1) if text.endswith(stop[:n])), 0)


def load_tokenizer(model: str | Path) -> Tokenizer:
    """The tokenizer of a folder, GGUF file, hub id or named model. Raises ModelError."""
    # Imported late: it takes seconds, and workers never need it.
    from transformers import AutoTokenizer
    from transformers.utils import logging

    logging.set_verbosity_error()
    if (path := gguf_file(str(model))) is not None:
        return Tokenizer(*gguf_tokenizer(path))
    fetch = file_source(str(model))
    folder = fetch("config.json").parent
    found = [name for name in FILES if _has(fetch, name)]
    if not found:
        raise ModelError(f"{model}: no tokenizer files; looked for {', '.join(FILES)}")
    try:
        hf = AutoTokenizer.from_pretrained(folder)
    except (OSError, ValueError, KeyError, ImportError) as error:
        raise ModelError(f"{model}: the tokenizer does not load: {error}") from None
    return Tokenizer(hf, _stop_ids(fetch, hf.eos_token_id))


def _has(fetch: Callable[[str], Path], name: str) -> bool:
    try:
        fetch(name)
    except FileNotFoundError:
        return False
    return True


def _stop_ids(fetch: Callable[[str], Path], eos: int | None) -> frozenset[int]:
    ids = {eos}
    for name in ("config.json", "generation_config.json"):
        if _has(fetch, name):
            found = read_json(fetch(name)).get("eos_token_id")
            ids.update(found if isinstance(found, list) else [found])
    return frozenset(i for i in ids if i is not None)
