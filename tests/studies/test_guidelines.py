"""The page of the rules: all of them, and what they come to on small devices."""

import json
from pathlib import Path

from edgewise.advice.rules import RULES
from edgewise.studies import write_study


def test_the_page_has_every_rule_and_a_row_for_every_case(tmp_path: Path) -> None:
    _, files = write_study("guidelines", tmp_path)
    document = json.loads(files[1].read_text())
    rules, cases = (section["rows"] for section in document["sections"])
    assert [row["rule"] for row in rules] == [rule.name for rule in RULES]
    assert len(cases) == 36
    assert {row["model"] for row in cases if row["GB"] == "4"} == {"Llama-2-7b"}
    hard = [row for row in cases if row["task"] == "hard" and row["GB"] == "16"]
    assert {row["model"] for row in hard} == {"Llama-2-13b"}
    assert {row["way"] for row in cases if row["records"] == "0"} == {"neither"}
    assert "[V2] read in a secondary source only" in document["legend"]
