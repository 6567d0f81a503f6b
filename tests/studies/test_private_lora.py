"""PrivateLoRA's study, against arithmetic by hand."""

import math

import pytest

from edgewise.studies.private_lora.formula import decode_rate, prefill_rate, rank_of
from edgewise.studies.private_lora.page import (
    BATCHES,
    RANKS,
    SHAPES,
    latency_section,
    private_lora_page,
)
from edgewise.studies.published import load_published
from tests.studies.test_studies import check_files

TABLES = load_published("private-lora")


class TestFormula:
    @pytest.mark.parametrize(
        ("name", "decode", "prefill"),
        # 3 L 16 is 1,536, 1,920 and 2,880 bits for each rank; 60 and 37.5 bits a microsecond
        [("7B", 25.6e-6, 40.96e-6), ("13B", 32e-6, 51.2e-6), ("33B", 48e-6, 76.8e-6)],
    )
    def test_a_ranks_communication(self, name: str, decode: float, prefill: float) -> None:
        for rank in RANKS:
            assert SHAPES[name].decode_seconds(rank) == pytest.approx(rank * decode, rel=1e-12)
            assert SHAPES[name].prefill_seconds(rank) == pytest.approx(rank * prefill, rel=1e-12)

    @pytest.mark.parametrize(
        ("name", "held", "trained"),
        [
            ("7B", 262_144_000 + 3_145_728, 1_572_864),
            ("13B", 327_680_000 + 3_932_160, 1_966_080),
            ("33B", 425_984_000 + 5_898_240, 2_949_120),
        ],
    )
    def test_what_the_device_holds(self, name: str, held: int, trained: int) -> None:
        shape, row = SHAPES[name], TABLES["device"][name]
        assert shape.device_bytes(128) == held
        assert shape.trainable(128) == trained
        assert round(held / 1e6, 1) == row["MB"].value
        assert round(trained / 1e6, 2) == row["trainable"].value
        assert round(shape.device_flops(128) / 1e9, 2) == row["GFLOP"].value

    def test_a_batch_of_one_reads_the_whole_head(self) -> None:
        # 28.2 ms, 262.144 MB at 42.7 GB/s = 6.1392 ms, 128 x 25.6 us = 3.2768 ms
        assert decode_rate(SHAPES["7B"], 128, 1.0, 28.2e-3) == pytest.approx(
            1e3 / 37.6160, abs=1e-3
        )
        assert decode_rate(SHAPES["7B"], 128, 4.0, 28.2e-3) == pytest.approx(
            1e3 / 33.0116, abs=1e-3
        )
        assert decode_rate(SHAPES["7B"], 128, math.inf, 28.2e-3) == pytest.approx(1e3 / 31.4768)

    def test_a_latency_is_waited_for_twice_a_layer(self) -> None:
        still = 1 / decode_rate(SHAPES["13B"], 64, 1.0, 0.0377)
        waiting = 1 / decode_rate(SHAPES["13B"], 64, 1.0, 0.0377, latency=0.01)
        assert waiting - still == pytest.approx(40 * 2 * 0.01)

    def test_the_rank_of_a_rate_is_the_one_that_gives_it(self) -> None:
        assert rank_of(prefill_rate(SHAPES["33B"], 200, 0.0028), SHAPES["33B"], 0.0028) == (
            pytest.approx(200)
        )


def test_the_page_says_what_is_believed_derived_and_a_fit(tmp_path) -> None:
    page = private_lora_page()
    document = check_files(page, page.write(tmp_path))
    sections = {section["title"]: section["rows"] for section in document["sections"]}
    for row in sections["Communication: what a rank costs"]:
        assert row["derived"] and row["fit"]
        assert abs(row["difference"]) < 0.01
    points = sections["Decoding: the figure's points"]
    assert {row["tag"] for row in points} == {"[V2]"}
    assert all(bool(row["fit"]) is ("large batch" in row["what"]) for row in points)
    assert all(
        row["difference"] == pytest.approx(row["ours"] / row["believed"] - 1) for row in points
    )
    assert "*Believed*" in document["legend"]
    assert "published" not in {name for rows in sections.values() for row in rows for name in row}


def test_what_the_text_says_twice_stands_side_by_side() -> None:
    page = private_lora_page()
    section = next(x for x in page.sections if x.title == "Where the text contradicts itself")
    pairs = [(row[1], row[2]) for row in section.rows]
    assert pairs[:4] == [(26.5, 27.1), (175.5, 142), (5.7, 8.1), (54.3, 57)]
    assert section.columns[1] == "believed value [V2], [V]"
    # (1 / 175.5 - 1.8e-3) / 40.96e-6 = 95.2
    assert "rank 95" in str(section.rows[1][-1])
    assert "465% of the one, 327% of the other" in str(section.rows[2][-1])
    assert "323% of the one; the curve's 142 262%, not" in str(section.rows[3][-1])


def test_rates_fall_with_rank_and_rise_with_the_batch() -> None:
    page = private_lora_page()
    for name in SHAPES:
        section = next(x for x in page.sections if x.title == f"Decoding against rank, {name}")
        table = [[float(value or 0) for value in row[1:]] for row in section.rows]
        assert len(table[0]) == len(BATCHES)
        assert all(row == sorted(row) for row in table)
        columns = [list(column) for column in zip(*table, strict=True)]
        assert all(column == sorted(column, reverse=True) for column in columns)


def test_without_latency_the_curve_with_it_next_to_nothing() -> None:
    section = latency_section({"7B": 0.0282, "13B": 0.0377, "33B": 0.0623})
    first, last = section.rows[0], section.rows[-1]
    assert first[1] == pytest.approx(1e3 / 37.6160, abs=1e-3)
    assert last[1] == pytest.approx(1 / (0.0376160 + 0.64), abs=1e-4)
