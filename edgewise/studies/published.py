"""What the papers printed: published/NAME.toml, every cell with its tag and where it stands.

A file holds tables, a table rows, and a row cells, which take the table's tag and source unless
they have their own:

    [latency]
    from = "S5"
    tag = "R"

    [latency.rows."Llama-2-7b"]
    Edge-Solo = 140.34
    EdgeShard = { value = 75.88, tag = "V2", from = "S6", fit = "the batch", remark = "..." }
"""

import tomllib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from edgewise.errors import InputError

_FOLDER = Path(__file__).with_name("published")
_TABLE_KEYS = ("from", "tag", "rows")
_CELL_KEYS = ("value", "tag", "from", "fit", "remark")
TAGS = {
    "V": "read in the source",
    "V2": "read in a secondary source only",
    "D": "derived by arithmetic from what was read",
    "R": "believed, read nowhere",
    "I": "inferred",
}
HEADINGS = {"V": "published", "D": "derived", "V2": "believed", "R": "believed", "I": "believed"}
STRENGTH = ("published", "derived", "believed")  # the weakest last


@dataclass(frozen=True, slots=True)
class Cell:
    """One value of a paper, or what it says in place of one; how sure of it we are (`tag`, of TAGS)
    and where it stands. `fit` is what the paper leaves open and was chosen so that our value comes
    near: such a value is a fit, no prediction."""

    value: float | str
    tag: str
    source: str
    fit: str = ""
    remark: str = ""

    @property
    def heading(self) -> str:
        """What a column of such values is called: only what was read is "published"."""
        return HEADINGS[self.tag]


Table = Mapping[str, Mapping[str, Cell]]  # by row and column


def column_name(what: str, cells: Iterable[Cell]) -> str:
    """The heading of a column of values of a paper, by the weakest of its cells."""
    cells = tuple(cells)
    weakest = max((cell.heading for cell in cells), key=STRENGTH.index)
    tags = ", ".join(dict.fromkeys(f"[{cell.tag}]" for cell in cells))
    return f"{weakest} {what} {tags}"


def load_published(study: str) -> dict[str, Table]:
    """The tables of a study's paper, by name."""
    return read_tables(_FOLDER / f"{study}.toml")


def read_tables(path: Path) -> dict[str, Table]:
    """Raises InputError naming the file, the table or cell, and the key."""
    try:
        document = tomllib.loads(path.read_text(encoding="utf-8"))
        return {name: _table(entry, f"table '{name}'") for name, entry in document.items()}
    except OSError as error:
        raise InputError(f"cannot read {path}: {error.strerror}") from None
    except (InputError, ValueError) as error:  # of TOML, too
        raise InputError(f"{path}: {error}") from None


def _table(entry: Any, where: str) -> Table:
    _check(entry, _TABLE_KEYS, ("from", "rows"), where)
    defaults = {key: entry[key] for key in ("from", "tag") if key in entry}
    rows = _table_of(entry["rows"], f"{where}: 'rows'")
    return {name: _row(row, defaults, f"{where}, row '{name}'") for name, row in rows.items()}


def _row(entry: Any, defaults: Mapping[str, str], where: str) -> dict[str, Cell]:
    cells = _table_of(entry, where)
    return {column: _cell(cell, defaults, f"{where}, '{column}'") for column, cell in cells.items()}


def _cell(entry: Any, defaults: Mapping[str, str], where: str) -> Cell:
    own = entry if isinstance(entry, dict) else {"value": entry}
    cell = {**defaults, **own}
    _check(cell, _CELL_KEYS, ("value", "tag", "from"), where)
    value, tag = cell["value"], cell["tag"]
    if isinstance(value, bool) or not isinstance(value, int | float | str):
        raise InputError(f"{where}: 'value' must be a number or a text, not {value!r}")
    if tag not in TAGS:
        raise InputError(f"{where}: unknown tag '{tag}'; known tags: {', '.join(TAGS)}")
    return Cell(value, tag, cell["from"], cell.get("fit", ""), cell.get("remark", ""))


def _check(entry: Any, known: tuple[str, ...], needed: tuple[str, ...], where: str) -> None:
    if unknown := [key for key in _table_of(entry, where) if key not in known]:
        raise InputError(f"{where}: unknown key '{unknown[0]}'; known keys: {', '.join(known)}")
    if missing := [key for key in needed if key not in entry]:
        raise InputError(f"{where}: key '{missing[0]}' is missing")


def _table_of(entry: Any, where: str) -> Mapping[str, Any]:
    if not isinstance(entry, dict):
        raise InputError(f"{where} must be a table")
    return entry
