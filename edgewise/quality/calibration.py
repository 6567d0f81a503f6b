"""Text to measure a model on: written by the model itself, from a file, or from a data set."""

import hashlib
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from edgewise.caches import cache_folder, cache_key, is_cached, remove, write_atomically
from edgewise.errors import InputError
from edgewise.models.checkpoint import open_checkpoint
from edgewise.models.digests import tensor_digests
from edgewise.models.tokenizer import load_tokenizer
from edgewise.quality.writing import write
from edgewise.tensor_files import write_tensors
from edgewise.texts import read_text

WRITING = 2  # version of how models write
MOST_BYTES = 64 * 2**20  # of a text file
MOST_TOKENS = 2**22  # of a text that is taken whole
ENGLISH = "english"  # prose that every Python comes with: its own documentation
_DATA_SET = re.compile(r"[\w.-]+(/[\w.-]+)?(:[\w.-]+)*")


@dataclass(frozen=True, slots=True)
class Calibration:
    """`count` sequences of `length` tokens. `text` is a file, "english" for pieces of Python's own
    documentation, or a data set such as "wikitext:wikitext-2-raw-v1:validation"; None lets the
    model write. `seed` is of what it writes, and of the pieces."""

    text: str | None = None
    count: int = 16
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
    if asked.text == ENGLISH:
        return _pieces(load_tokenizer(model).encode(_english()), asked)
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


def text_pieces(model: str, text: str, length: int) -> Tensor:
    """A whole text, as it may be named in a Calibration, in pieces: ids int64 [N, length]. Of one
    longer than MOST_TOKENS the beginning. Raises InputError."""
    encode, ids = load_tokenizer(model).encode, list[int]()
    for part in [_english()] if text == ENGLISH else _texts(text):
        ids += encode(part)
        if len(ids) > MOST_TOKENS:
            break
    count = min(len(ids), MOST_TOKENS) // length
    return torch.tensor(ids[: count * length], dtype=torch.int64).view(count, length)


def written_by(
    model: str, asked: Calibration, on_token: Callable[[int], None] = lambda token: None
) -> Tensor:
    """What the model writes at temperature 1 from its own start token: on such text, the mean loss
    that a change adds is exactly the KL divergence that it causes. Written once, then kept."""
    folder = cache_folder("texts")
    path = folder and folder / f"{cache_key(WRITING, text_key(model, asked))}.safetensors"
    if path is not None and is_cached(path):
        try:
            return load_file(path)["ids"]
        except (SafetensorError, OSError, KeyError):
            remove(path)  # damaged: write again
    ids = write(model, asked.count, asked.length, asked.seed, on_token)
    if path is not None:
        write_atomically(path, lambda partial: write_tensors(partial, {"ids": ids}, {}))
    return ids


def _pieces(ids: list[int], asked: Calibration) -> Tensor:
    """Pieces [count, length] of a text, none twice, the seed's share of all of them. Raises
    InputError where there are too few."""
    pieces = torch.tensor(ids[: len(ids) // asked.length * asked.length]).view(-1, asked.length)
    if len(pieces) < asked.count:
        raise InputError(f"{asked.text}: {len(pieces)} pieces of text, not {asked.count}")
    # One order for all seeds, so that texts of neighbouring seeds have no piece in common.
    order = torch.randperm(len(pieces), generator=torch.Generator().manual_seed(0))
    first = asked.seed * asked.count % len(pieces)
    return pieces[order.roll(-first)[: asked.count]]


def _english() -> str:
    """Raises InputError for a Python that was installed without its documentation."""
    try:
        from pydoc_data.topics import topics
    except ImportError:
        raise InputError("this Python comes without its documentation; give a file") from None
    return re.sub(r"\s+", " ", " ".join(topics[name] for name in sorted(topics)))


def _texts(name: str) -> Iterator[str]:
    """What a text consists of, without what is empty. Raises InputError."""
    path = Path(name).expanduser()
    if path.is_file():
        yield from filter(None, [read_text(path, MOST_BYTES)])
    elif path.is_dir() or not _DATA_SET.fullmatch(name):
        raise InputError(f"{name}: no such text file")
    else:
        yield from filter(None, _data_set(name))


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
            if not isinstance(text := row["text"], str):
                raise ValueError(f"a row's text is {text!r:.80}")
            yield text
    except (OSError, ValueError, KeyError) as error:
        raise InputError(f"{name}: no text file, and not readable as a data set: {error}") from None
