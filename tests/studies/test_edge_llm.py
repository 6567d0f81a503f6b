"""Edge-LLM's study: its arithmetic, and steps of the demo model."""

import pytest

from edgewise.studies.edge_llm.page import edge_llm_page
from edgewise.studies.edge_llm.schedules import DEVICE, PARTS, seconds_of


@pytest.fixture(scope="module")
def rows():
    return {part.name: seconds_of(part, DEVICE) for part in PARTS}


def test_every_part_brings_something(rows):
    *chain, _ = (seconds for seconds, _, _ in rows.values())
    assert chain == sorted(chain, reverse=True)
    assert all(size <= DEVICE.dram_bytes for _, _, size in rows.values())


def test_the_formula_is_near_what_channels_would_do(rows):
    for name, (seconds, simulated, _) in rows.items():
        assert simulated == pytest.approx(seconds, rel=0.1), name


def test_the_page_has_what_was_measured(tmp_path):
    said = []
    page = edge_llm_page("demo", said.append)
    headline, measured, *_ = page.sections
    assert all(row[1] > 0 for row in headline.rows)
    _, whole, in_turn, by_batch = (row[3] for row in measured.rows)
    assert in_turn == by_batch < whole  # kept, of fewer blocks
    assert len(said) == 4 + 4 * 4
    page.write(tmp_path)
    assert {x.suffix for x in tmp_path.iterdir()} == {".md", ".json", ".png", ".svg"}
