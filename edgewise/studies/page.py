"""What a study writes: a page of sections, as Markdown, JSON, and figures as PNG and SVG."""

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from edgewise.studies.published import STRENGTH, TAGS, Cell

Value = str | float | None
OnStep = Callable[[str], None]  # told what was just done, for a progress bar
BELIEVED = "*Believed*: nobody here has read it in the paper itself."
FIT = "*Fit*: what the paper leaves open, chosen so that ours comes near; no prediction."


def quietly(step: str) -> None:
    """Tell nobody."""


@dataclass(frozen=True, slots=True)
class Comparison:
    """Ours beside one cell of a paper; None where no plan exists."""

    what: str
    ours: float | None
    theirs: Cell
    note: str = ""

    @property
    def difference(self) -> float | None:
        """Relative to the paper's value."""
        if self.ours is None or isinstance(self.theirs.value, str) or not self.theirs.value:
            return None
        return self.ours / self.theirs.value - 1

    @property
    def remark(self) -> str:
        """What is to be said of the cell, and of ours."""
        return "; ".join(part for part in (self.theirs.remark, self.note) if part)


@dataclass(frozen=True, slots=True)
class Figure:
    """A picture: its file name without ending, and what draws it to a path."""

    name: str
    draw: Callable[[Path], None]


@dataclass(frozen=True, slots=True)
class Section:
    """A table with its columns' names, a figure, or both, under a line that says what they are."""

    title: str
    caption: str
    columns: tuple[str, ...] = ()
    rows: tuple[tuple[Value, ...], ...] = ()
    figure: Figure | None = None


@dataclass(frozen=True, slots=True)
class Page:
    """What a study found. How to read it is told by docs/studies/NAME.md."""

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
        """The page with its tables, and links to its figures beside it."""
        body = [part for section in self.sections for part in _parts(section)]
        reading = f"How to read it: docs/studies/{self.name}.md."
        parts = [f"# {self.title}", f"{self.text} {reading}", self.legend(), *body]
        return "\n\n".join(part for part in parts if part) + "\n"

    def legend(self) -> str:
        """The tags and words that the page uses, explained."""
        shown = " ".join((self.text, *(part for s in self.sections for part in _parts(s))))
        names = {name for section in self.sections for name in section.columns}
        tags = [
            f"[{tag}] {meaning}"
            for tag, meaning in TAGS.items()
            if f"[{tag}]" in shown or f"[{tag}:" in shown
        ]
        lines = [f"Tags: {'; '.join(tags)}."] if tags else []
        if any(name.startswith("believed") for name in names):
            lines.append(BELIEVED)
        if "fit" in names:
            lines.append(FIT)
        return " ".join(lines)

    def to_json(self) -> str:
        """The same for programs."""
        sections = [
            {
                "title": section.title,
                "caption": section.caption,
                "rows": [dict(zip(section.columns, row, strict=True)) for row in section.rows],
                "figure": section.figure.name if section.figure else None,
            }
            for section in self.sections
        ]
        document = {"study": self.name, "text": self.text, "legend": self.legend(),
                    "sections": sections}  # fmt: skip
        return json.dumps(document, indent=1, allow_nan=False)


def comparison_section(title: str, caption: str, comparisons: Sequence[Comparison]) -> Section:
    """Ours beside theirs, each value of theirs under the heading that its tag allows."""
    headings = {comparison.theirs.heading for comparison in comparisons}
    shown = [heading for heading in STRENGTH if heading in headings]
    fitted = any(comparison.theirs.fit for comparison in comparisons)
    fit = ("fit",) if fitted else ()
    columns = ("what", "ours", *shown, "tag", "difference", *fit, "remark")
    rows = []
    for x in comparisons:
        theirs = (x.theirs.value if x.theirs.heading == heading else None for heading in shown)
        fits = (x.theirs.fit or None,) if fitted else ()
        rows.append((x.what, x.ours, *theirs, f"[{x.theirs.tag}]", x.difference, *fits, x.remark))
    return Section(title, caption, columns, tuple(rows))


def _parts(section: Section) -> list[str]:
    parts = [f"## {section.title}", section.caption]
    if section.rows:
        parts.append(_table(section))
    if section.figure is not None:
        parts.append(f"![{section.title}]({section.figure.name}.png)")
    return parts


def _table(section: Section) -> str:
    """Markdown's table, numbers to the right."""
    columns = zip(*section.rows, strict=True)
    numeric = (any(isinstance(value, int | float) for value in column) for column in columns)
    rules = [" ---: |" if numbers else " --- |" for numbers in numeric]
    lines = ["| " + " | ".join(section.columns) + " |", "|" + "".join(rules)]
    for row in section.rows:
        cells = (_show(name, value) for name, value in zip(section.columns, row, strict=True))
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)


def _show(column: str, value: Value) -> str:
    if value is None:
        return "-"
    if isinstance(value, str):
        return value.replace("|", "\\|")
    if column == "difference":
        return f"{value:+.1%}"
    if "ratio" in column.split():
        return f"{value:.2%}"
    if isinstance(value, int) or column.startswith(STRENGTH):  # theirs with the digits they have
        return f"{value:,}"
    return f"{value:,.2f}" if abs(value) >= 1 else f"{value:.3g}"
