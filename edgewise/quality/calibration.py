"""Text to measure a model on: written by the model itself, from a file, or from a data set."""

import hashlib
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

import torch
from torch import Tensor

from edgewise.caches import cache_key
from edgewise.errors import InputError
from edgewise.models.cache import Segment
from edgewise.models.checkpoint import open_checkpoint
from edgewise.models.digests import tensor_digests
from edgewise.models.shard import load_shard
from edgewise.models.tokenizer import load_tokenizer

MOST_BYTES = 64 * 2**20  # of a text file
_DATA_SET = re.compile(r"[\w.-]+(/[\w.-]+)?(:[\w.-]+)*")


@dataclass(frozen=True, slots=True)
class Calibration:
    """`count` sequences of `length` tokens. `text` is a file, or a data set such as
    "wikitext:wikitext-2-raw-v1:validation"; None lets the model write, seeded."""

    text: str | None = None
    count: int = 32
    length: int = 128
    seed: int = 0

    def __post_init__(self) -> None:
        for name, least in (("count", 1), ("length", 2), ("seed", 0)):
            if getattr(self, name) < least:
                raise InputError(f"calibration: {name} must be at least {least}")

    def described(self) -> str:
        """For the file that a measurement is kept in."""
        return f"{self.count} x {self.length} tokens of {self.text or 'its own'}, seed {self.seed}"


def text_key(model: str, asked: Calibration) -> str:
    """A name of what a model does on a text: of the text, and of all of the model's weights. Raises
    ModelError."""
    checkpoint, content = open_checkpoint(model), ""
    if asked.text is not None and (path := Path(asked.text).expanduser()).is_file():
        with path.open("rb") as file:
            content = hashlib.file_digest(file, "sha256").hexdigest()
    return cache_key(tensor_digests(checkpoint, checkpoint.tensors()), asked, content)


def sequences(
    model: str, asked: Calibration, on_token: Callable[[int], None] = lambda token: None
) -> Tensor:
    """Token ids int64 [count, length]. Raises InputError where there is too little text."""
    config = open_checkpoint(model).config
    if asked.length > config.max_context:
        raise InputError(
            f"calibration: {asked.length} tokens exceed the context of '{model}', "
            f"{config.max_context}"
        )
    if asked.text is None:
        return written_by(model, asked, on_token)
    wanted = asked.count * asked.length
    ids: list[int] = []
    encode = load_tokenizer(model).encode
    for text in _texts(asked.text):
        ids += encode(text)
        if len(ids) >= wanted:
            return torch.tensor(ids[:wanted]).view(asked.count, asked.length)
    raise InputError(
        f"{asked.text}: {len(ids)} tokens of text, but {asked.count} sequences of {asked.length} "
        f"need {wanted}; ask for fewer, or give more text"
    )


def written_by(
    model: str, asked: Calibration, on_token: Callable[[int], None] = lambda token: None
) -> Tensor:
    """What the model writes at temperature 1 from its own start token: on such text, the mean loss
    that a change adds is exactly the KL divergence that it causes."""
    config = open_checkpoint(model).config
    shard = load_shard(model, slots=asked.count, context=asked.length)
    generator = torch.Generator().manual_seed(asked.seed)
    ids = torch.empty(asked.count, asked.length, dtype=torch.int64)
    ids[:, 0] = _start(model, config.vocab_size, asked.count, generator)
    rows = range(asked.count)
    for at in range(asked.length - 1):
        segments = [Segment(row, at, 1) for row in rows]
        logits = shard.forward(ids[:, at], segments)
        ids[:, at + 1] = torch.multinomial(logits.softmax(-1), 1, generator=generator)[:, 0]
        on_token(at)
    return ids


def _start(model: str, vocabulary: int, count: int, generator: torch.Generator) -> Tensor:
    """The token after which a text begins: the end of the one before, where the model has one."""
    stops = sorted(load_tokenizer(model).stop_ids)
    if stops:
        return torch.full((count,), stops[0])
    return torch.randint(vocabulary, (count,), generator=generator)


def _texts(name: str) -> Iterator[str]:
    path = Path(name).expanduser()
    if path.is_file():
        if path.stat().st_size > MOST_BYTES:
            raise InputError(f"{name}: larger than {MOST_BYTES} bytes, refused; give a part of it")
        try:
            yield path.read_text(encoding="utf-8")
        except UnicodeDecodeError:
            raise InputError(f"{name}: not UTF-8 text") from None
    elif path.is_dir() or not _DATA_SET.fullmatch(name):
        raise InputError(f"{name}: no such text file")
    else:
        yield from _data_set(name)


def _data_set(name: str) -> Iterator[str]:
    """Rows of the "text" column of NAME[:CONFIGURATION][:SPLIT], streamed."""
    try:
        from datasets import load_dataset
    except ImportError:
        raise InputError(
            f"{name}: no such file; to read a data set of that name, install 'datasets'"
        ) from None
    path, *rest = name.split(":")
    split = rest.pop() if rest else "train"
    try:
        rows = load_dataset(path, *rest, split=split, streaming=True)
        for row in islice(rows, 1_000_000):
            yield row["text"]
    except (OSError, ValueError, KeyError) as error:
        raise InputError(f"{name}: no text file, and not readable as a data set: {error}") from None
