"""What a study writes: a page of sections, as Markdown, JSON, and figures as PNG and SVG."""

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

Value = str | float | None
OnStep = Callable[[str], None]  # told what was just done, for a progress bar
COMPARED = ("what", "ours", "published", "believed", "tag", "difference", "remark")
UNREAD = ("[R]", "[I]")  # values with these tags nobody here has read
TAGS = (
    "Tags: [V] read in the source, [V2] read in a secondary source, [D] derived by arithmetic "
    "from those, [R] believed but read nowhere, a hypothesis, [I] inferred. The papers' own "
    "tables could not be read, but DILEMMA's; a value tagged [R] or [I] is no fact."
)


def quietly(step: str) -> None:
    """Tell nobody."""


@dataclass(frozen=True, slots=True)
class Compared:
    """One cell of a paper beside ours. A value is None where there is none: no plan, not found.
    What nobody here has read in a source (by its tag) is shown as believed, not as published."""

    what: str
    ours: float | None
    published: float | None
    tag: str
    remark: str = ""

    @property
    def difference(self) -> float | None:
        """Relative to the published or believed value."""
        if self.ours is None or not self.published:
            return None
        return self.ours / self.published - 1


@dataclass(frozen=True, slots=True)
class Figure:
    """A picture: its file name without ending, and what draws it to a path."""

    name: str
    draw: Callable[[Path], None]


@dataclass(frozen=True, slots=True)
class Section:
    title: str
    text: str
    columns: tuple[str, ...] = ()
    rows: tuple[tuple[Value, ...], ...] = ()
    figure: Figure | None = None


@dataclass(frozen=True, slots=True)
class Page:
    name: str
    title: str
    text: str
    sections: tuple[Section, ...]

    def write(self, folder: Path) -> list[Path]:
        """Write NAME.md, NAME.json and the figures into `folder`; returns the paths."""
        folder.mkdir(parents=True, exist_ok=True)
        files = [folder / f"{self.name}.md", folder / f"{self.name}.json"]
        files[0].write_text(self.markdown(), encoding="utf-8")
        files[1].write_text(self.to_json() + "\n", encoding="utf-8")
        for figure in (section.figure for section in self.sections):
            if figure is not None:
                for path in (folder / f"{figure.name}{ending}" for ending in (".png", ".svg")):
                    figure.draw(path)
                    files.append(path)
        return files

    def markdown(self) -> str:
        parts = [f"# {self.title}", self.text, TAGS]
        for section in self.sections:
            parts += [f"## {section.title}", section.text]
            if section.rows:
                parts.append(_table(section))
            if section.figure is not None:
                parts.append(f"![{section.title}]({section.figure.name}.png)")
        return "\n\n".join(part for part in parts if part) + "\n"

    def to_json(self) -> str:
        sections = [
            {
                "title": section.title,
                "text": section.text,
                "rows": [dict(zip(section.columns, row, strict=True)) for row in section.rows],
                "figure": section.figure.name if section.figure else None,
            }
            for section in self.sections
        ]
        document = {"study": self.name, "text": self.text, "tags": TAGS, "sections": sections}
        return json.dumps(document, indent=1, allow_nan=False)


def compared(
    title: str, text: str, cells: Sequence[Compared], figure: Figure | None = None
) -> Section:
    """A section of ours beside published values."""
    rows = tuple(
        (c.what, c.ours, *((None, c.published) if c.tag in UNREAD else (c.published, None)),
         c.tag, c.difference, c.remark)
        for c in cells
    )  # fmt: skip
    return Section(title, text, COMPARED, rows, figure)


def _table(section: Section) -> str:
    lines = ["| " + " | ".join(section.columns) + " |", "|" + " --- |" * len(section.columns)]
    for row in section.rows:
        cells = (_show(name, value) for name, value in zip(section.columns, row, strict=True))
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)


def _show(column: str, value: Value) -> str:
    if value is None:
        return "-"
    if isinstance(value, str):
        return value.replace("|", "\\|")
    if column in ("difference", "ratio", "uniform ratio", "published ratio"):
        return f"{value:+.1%}" if column == "difference" else f"{value:.2%}"
    if isinstance(value, int):
        return str(value)
    return f"{value:,.2f}" if abs(value) >= 1 or value == 0 else f"{value:.3g}"
