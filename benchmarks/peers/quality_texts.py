"""English texts for `quality.py`, and windows of tokens from them."""

import re
from html.parser import HTMLParser
from pathlib import Path

import numpy as np

from edgewise.models.tokenizer import load_tokenizer

# Of the Debian packages debian-handbook, fortunes and base-files.
TEXTS = (
    "/usr/share/doc/debian-handbook/html/en-US/sect.package-meta-information.html",
    "/usr/share/games/fortunes/literature",
    "/usr/share/common-licenses/MPL-2.0",
)
WINDOWS, LENGTH = 3, 512  # of each text


class _Words(HTMLParser):
    """The text of a page, without what browsers do not show."""

    def __init__(self) -> None:
        super().__init__()
        self.parts: list[str] = []
        self.hidden = 0

    def handle_starttag(self, tag: str, attrs: object) -> None:
        self.hidden += tag in ("script", "style", "head")

    def handle_endtag(self, tag: str) -> None:
        self.hidden -= tag in ("script", "style", "head")

    def handle_data(self, data: str) -> None:
        if not self.hidden:
            self.parts.append(data)


def plain_text(file: Path) -> str:
    """A file's text: pages without their tags, fortunes with blank lines between them. Exits,
    saying what to install, where the file is missing."""
    if not file.is_file():
        raise SystemExit(
            f"{file}: no such text; on Debian, `apt-get install debian-handbook fortunes` brings "
            "the usual ones, or name others with --texts"
        )
    text = file.read_text(encoding="utf-8", errors="replace")
    if file.suffix == ".html":
        words = _Words()
        words.feed(text)
        text = re.sub(r"[ \t]*\n\s*\n\s*", "\n\n", "".join(words.parts)).strip()
    return re.sub(r"\n%\n", "\n\n", text)


def windows(model: Path, files: list[Path]) -> np.ndarray:
    """Token ids int64 [files x WINDOWS, LENGTH]: windows spread evenly over each text, as this
    model's tokenizer cuts it. Exits where a text is too short to hold them side by side."""
    encode = load_tokenizer(model).encode
    rows = []
    for file in files:
        ids = encode(plain_text(file))
        if len(ids) < WINDOWS * LENGTH:
            raise SystemExit(f"{file}: {len(ids)} tokens, but {WINDOWS * LENGTH} are needed")
        step = (len(ids) - LENGTH) // (WINDOWS - 1)
        rows += [ids[i * step : i * step + LENGTH] for i in range(WINDOWS)]
    return np.array(rows, np.int64)
