"""What the papers printed is read from TOML; what nobody has read is headed so."""

from pathlib import Path

import pytest

from edgewise.errors import InputError
from edgewise.studies import STUDIES
from edgewise.studies.page import BELIEVED, FIT, Comparison, Page, Section, comparison_section
from edgewise.studies.published import (
    TAGS,
    Cell,
    column_name,
    load_published,
    read_tables,
)

GOOD = """
[speed]
from = "Table 3"
tag = "V"

[speed.rows.small]
alone = 2
both = { value = 3.5, tag = "R", from = "hearsay", fit = "the batch", remark = "why" }
"""


def read(tmp_path: Path, text: str) -> None:
    path = tmp_path / "paper.toml"
    path.write_text(text, encoding="utf-8")
    read_tables(path)


def test_cells_take_the_tables_tag_and_source_or_have_their_own(tmp_path: Path) -> None:
    path = tmp_path / "paper.toml"
    path.write_text(GOOD, encoding="utf-8")
    assert read_tables(path) == {
        "speed": {
            "small": {
                "alone": Cell(2, "V", "Table 3"),
                "both": Cell(3.5, "R", "hearsay", "the batch", "why"),
            }
        }
    }


@pytest.mark.parametrize("study", sorted(STUDIES.keys() - {"quality", "guidelines"}))
def test_every_file_can_be_read_and_says_where_each_cell_stands(study: str) -> None:
    tables = load_published(study)
    cells = [cell for table in tables.values() for row in table.values() for cell in row.values()]
    assert len(cells) >= 7
    assert all(cell.source and cell.tag in TAGS for cell in cells)


@pytest.mark.parametrize(
    ("old", "new", "reason"),
    [
        ("from =", "form =", "table 'speed': unknown key 'form'; known keys: from, tag, rows"),
        ('remark = "why"', 'note = "why"', "row 'small', 'both': unknown key 'note'; known keys"),
        ('from = "Table 3"', "", "table 'speed': key 'from' is missing"),
        ('tag = "V"', "", "'alone': key 'tag' is missing"),
        ('tag = "R"', 'tag = "sure"', "'both': unknown tag 'sure'; known tags: V, V2, D, R, I"),
        ("value = 3.5, ", "", "'both': key 'value' is missing"),
        ("value = 3.5", "value = true", "'value' must be a number or a text, not True"),
        ("[speed.rows.small]", "[speed.rows]", "row 'alone' must be a table"),
        ("[speed]", "other = 3\n[speed]", "table 'other' must be a table"),
        ("[speed]", "[speed", "paper.toml: "),
    ],
)
def test_what_is_wrong_is_named(tmp_path: Path, old: str, new: str, reason: str) -> None:
    assert old in GOOD
    with pytest.raises(InputError) as caught:
        read(tmp_path, GOOD.replace(old, new, 1))
    assert reason in str(caught.value)
    assert "paper.toml" in str(caught.value)


@pytest.mark.parametrize(
    ("tag", "heading"),
    [
        ("V", "published"),
        ("D", "derived"),
        ("V2", "believed"),
        ("R", "believed"),
        ("I", "believed"),
    ],
)
def test_only_what_was_read_in_the_paper_is_called_published(tag: str, heading: str) -> None:
    cell = Cell(100.0, tag, "Table 3")
    section = comparison_section("title", "caption", [Comparison("a|b", 90.0, cell, "why")])
    assert section.columns == ("what", "ours", heading, "tag", "difference", "remark")
    text = Page("p", "P", "intro", (section,)).markdown()
    assert f"| a\\|b | 90.00 | 100.0 | [{tag}] | -10.0% | why |" in text
    assert f"[{tag}] {TAGS[tag]}" in text
    assert (BELIEVED in text) is (heading == "believed")


def test_a_table_keeps_what_was_read_and_what_is_believed_apart() -> None:
    cells = [Cell(100.0, "V", "Table 3"), Cell("out of memory", "R", "Table 3", fit="the batch")]
    section = comparison_section("t", "c", [Comparison("row", 90.0, cell) for cell in cells])
    text = Page("p", "P", "intro", (section, Section("only text", "words"))).markdown()
    assert "| what | ours | published | believed | tag | difference | fit | remark |" in text
    assert "| row | 90.00 | 100.0 | - | [V] | -10.0% | - |  |" in text
    assert "| row | 90.00 | - | out of memory | [R] | - | the batch |  |" in text
    assert FIT in text


def test_a_columns_weakest_cell_names_it() -> None:
    read_here, heard = Cell(1.0, "V", "Table 3"), Cell(2.0, "V2", "a review")
    assert column_name("loss", [read_here]) == "published loss [V]"
    assert column_name("loss", [read_here, heard]) == "believed loss [V], [V2]"


def test_differences_are_relative_and_a_missing_value_has_none() -> None:
    cell, none = Cell(100.0, "V", "Table 3"), Cell("out of memory", "R", "Table 3")
    assert Comparison("a", 90.0, cell).difference == pytest.approx(-0.1)
    assert Comparison("a", None, cell).difference is None
    assert Comparison("a", 90.0, none).difference is None
