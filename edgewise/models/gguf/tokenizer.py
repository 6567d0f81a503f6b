"""The tokenizer that a GGUF file carries, converted by transformers."""

from pathlib import Path
from typing import Any

from edgewise.errors import ModelError
from edgewise.models.gguf.header import read_header

MODEL_KEY = "tokenizer.ggml.model"
# The end of a text, of a turn, of a message (before a tool is called).
STOP_KEYS = ("eos_token_id", "eot_token_id", "eom_token_id")


def has_tokenizer(path: Path) -> bool:
    """Whether a file carries one. Raises ModelError."""
    return MODEL_KEY in read_header(path).metadata


def gguf_tokenizer(path: Path) -> tuple[Any, frozenset[int]]:
    """transformers' tokenizer of a file, and the tokens at which an answer ends. Raises
    ModelError."""
    from transformers import PreTrainedTokenizerFast

    # Reading the header first also holds its counts against the file, which transformers does not.
    metadata = read_header(path).metadata
    if MODEL_KEY not in metadata:
        raise ModelError(f"{path}: has no tokenizer (key '{MODEL_KEY}' is missing)")
    try:
        # Not AutoTokenizer, which would parse the file three times, for seconds.
        hf = PreTrainedTokenizerFast.from_pretrained(
            path.parent, gguf_file=path.name, local_files_only=True
        )
    except Exception as error:  # a damaged vocabulary makes it raise whatever it likes
        words = str(error) or type(error).__name__
        raise ModelError(f"{path}: the tokenizer does not load: {words}") from None
    stated = [metadata.get(f"tokenizer.ggml.{key}") for key in STOP_KEYS]
    return hf, frozenset(token for token in (*stated, hf.eos_token_id) if isinstance(token, int))
