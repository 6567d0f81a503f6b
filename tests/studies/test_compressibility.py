"""The page of entropy coding: entropies by hand, and the demo model's page."""

import json
import math
from pathlib import Path

import pytest
import torch

from edgewise.models.checkpoint import open_checkpoint
from edgewise.studies import write_study
from edgewise.studies.compressibility import Coded, entropy, rounded, stored_codes


def test_entropies_are_those_of_frequencies() -> None:
    assert entropy(torch.zeros(50, dtype=torch.uint8)) == 0
    assert entropy(torch.arange(256, dtype=torch.uint8)) == pytest.approx(8)
    some = torch.tensor([0, 0, 0, 1], dtype=torch.int8)
    assert entropy(some) == pytest.approx(-(0.75 * math.log2(0.75) + 0.25 * math.log2(0.25)))
    assert entropy(torch.tensor([1.0, 2.0], dtype=torch.bfloat16)) == pytest.approx(1)


def test_a_normal_matrix_has_the_entropy_that_theory_gives() -> None:
    """log2(scale sqrt(2 pi e)) bits for codes of a normal distribution, scale their deviation."""
    matrix = torch.randn(400, 1000, generator=torch.Generator().manual_seed(0))
    codes = rounded(matrix, 8, by_row=False)
    scale = 127 / float(matrix.abs().max())
    assert entropy(codes.flatten()) == pytest.approx(
        math.log2(scale * math.sqrt(2 * math.pi * math.e)), abs=0.02
    )
    assert entropy(rounded(matrix, 8, by_row=True).flatten()) > entropy(codes.flatten())
    assert float(codes.abs().max()) == 127


def test_two_codes_of_four_bits_share_a_byte() -> None:
    codes = torch.tensor([-7, 7, 0, -1], dtype=torch.int8)
    assert list(stored_codes(codes, 4)) == [0x79, 0xF0]
    assert len(stored_codes(codes, 8)) == 4


def test_coding_pays_up_to_where_it_takes_as_long_as_it_saves() -> None:
    half = Coded("half", 8, (4.0,), size=1000, left=500, compressing=2.0, decompressing=3.0)
    assert half.pays_below == 100
    assert half.seconds(99.0) == pytest.approx(500 / 99 + 5)
    assert half.seconds(101.0) == pytest.approx(1000 / 101)


def test_the_page_of_the_demo_model(tmp_path: Path) -> None:
    _, files = write_study("compressibility", tmp_path, "demo")
    document = json.loads(files[1].read_text())
    left, pays, by_block, believed = (section["rows"] for section in document["sections"])
    found = {row["format"]: row for row in left}
    assert found["int8, one scale a tensor"]["entropy"] < found["int8, one scale a row"]["entropy"]
    assert all(row["entropy"] <= row["bits"] for row in left)
    # A coder of order 0 leaves no less than the entropy, but for scales and rare repetitions.
    whole = found["int8, one scale a tensor"]
    assert whole["left by zstd"] >= 0.97 * whole["entropy"] / 8
    assert len(by_block) == open_checkpoint("demo").spec.num_layers - 2
    assert len(pays) == len(left) and len(believed) == 7
    assert {path.suffix for path in files} == {".md", ".json", ".png", ".svg"}
