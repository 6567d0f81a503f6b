"""Text to learn from, text to judge by, and text of another kind."""

import re
from dataclasses import dataclass
from html import unescape
from pathlib import Path

import torch
from torch import Tensor

from edgewise.errors import InputError
from edgewise.models.tokenizer import load_tokenizer
from edgewise.quality.calibration import ENGLISH, Calibration, sequences
from edgewise.shortening.shorten import TextSplit
from edgewise.studies.streamline.choices import CONTEXT, CONTINUATION, Choices

HANDBOOK = Path("/usr/share/doc/debian-handbook/html/en-US")
PARAGRAPH = re.compile(r'<div class="para">(.*?)</div>', re.DOTALL)
HELD_OUT = 5  # of the pages one is


@dataclass(frozen=True)
class StudyTexts:
    """Ids: `learned` [N, T]; `own` [rows, length] of pages that were held out, and `other` of
    another text; questions from the pages that were held out, and what spans are compared on."""

    learned: Tensor
    looked_at: Tensor
    own: Tensor
    other: Tensor
    choices: Choices


def handbook_pages(folder: Path = HANDBOOK) -> list[str]:
    """Paragraphs of the Debian handbook by page, without markup. Raises InputError where it is not
    there."""
    pages = [path.read_text("utf-8") for path in sorted(folder.glob("*.html"))]
    if not pages:
        raise InputError(f"{folder}: no pages; on Debian, `apt-get install debian-handbook`")
    return ["\n\n".join(map(_plain, PARAGRAPH.findall(page))) for page in pages]


def _plain(markup: str) -> str:
    return " ".join(unescape(re.sub(r"<[^>]+>", "", markup)).split())


def study_texts(
    model: str, pages: list[str], *, length: int, rows: int, row_length: int, questions: int
) -> StudyTexts:
    """Of the pages every fifth is held out: its first part is judged by as text, the rest asked
    about. Raises InputError where that is too little."""
    encode = load_tokenizer(model).encode
    judged = torch.tensor(encode("\n\n".join(pages[::HELD_OUT])))
    rest = [page for number, page in enumerate(pages) if number % HELD_OUT]
    learned = torch.tensor(encode("\n\n".join(rest)))
    needed = rows * row_length + questions * (CONTEXT + CONTINUATION)
    if len(judged) < needed:
        raise InputError(f"{len(judged)} tokens are held out, but {needed} are needed")
    pieces = learned[: len(learned) // length * length].view(-1, length)
    return StudyTexts(
        pieces,
        TextSplit(pieces, pieces[:0]).looked_at,
        judged[: rows * row_length].view(rows, row_length),
        sequences(model, Calibration(ENGLISH, rows, row_length)),
        Choices.drawn(judged[rows * row_length :], questions),
    )
