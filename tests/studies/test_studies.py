"""The studies write what they say, and keep hitting the figures that the notes reproduce."""

import json
from pathlib import Path
from typing import Any

import pytest

from edgewise import studies
from edgewise.cli import app
from edgewise.errors import InputError
from edgewise.simulation import SHAPES
from edgewise.studies import edgeshard as edgeshard_study
from edgewise.studies import write_study
from edgewise.studies.dilemma import (
    BITS,
    RATIOS,
    Layers,
    chosen_bits,
    dilemma_page,
    mean_objective,
    uniform_bits,
)
from edgewise.studies.dilemma_weights import Truncation, read_truncation
from edgewise.studies.edgeshard import latency_cells, milliseconds, problem, source_section
from edgewise.studies.edgeshard_throughput import METHODS, rates, throughput_problem
from edgewise.studies.llm_pq import closed_form, llm_pq_page
from edgewise.studies.page import Compared, Page, Section, compared
from edgewise.studies.quality import quality_page
from tests.seeds import THOROUGH

PNG, MAGIC = ".png", b"\x89PNG"


def check_files(page: Page, files: list[Path]) -> dict[str, Any]:
    """Everything is there and not empty; returns the JSON document."""
    figures = [section.figure for section in page.sections if section.figure]
    assert figures
    assert len(files) == 2 + 2 * len(figures)
    assert all(path.stat().st_size > 500 for path in files)
    for path in files:
        if path.suffix == PNG:
            assert path.read_bytes().startswith(MAGIC)
            assert f"]({path.name})" in files[0].read_text()
        if path.suffix == ".svg":
            assert "<svg" in path.read_text()
    document: dict[str, Any] = json.loads(files[1].read_text())
    assert [s["title"] for s in document["sections"]] == [s.title for s in page.sections]
    return document


def test_an_unknown_study_is_a_clear_error(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="unknown study 'bloom'; known studies: edgeshard, dile"):
        write_study("bloom", tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_the_command_writes_a_page_and_prints_its_json(
    tmp_path: Path, capsys: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(studies.STUDIES, "llm-pq", lambda model, on_step: llm_pq_page((1,)))
    app(["study", "llm-pq", "--out", str(tmp_path), "--json"], standalone_mode=False)
    printed = json.loads(capsys.readouterr().out)
    assert printed == json.loads((tmp_path / "llm-pq.json").read_text())


def test_differences_are_relative_and_a_missing_value_has_none() -> None:
    assert Compared("a", 90.0, 100.0, "[V]").difference == pytest.approx(-0.1)
    assert Compared("a", None, 100.0, "[V]").difference is None
    assert Compared("a", 90.0, None, "[R]").difference is None
    cells = [Compared("a|b", 90.0, 100.0, "[R]", "why"), Compared("c", 90.0, 100.0, "[V]")]
    section = compared("title", "text", cells)
    text = Page("p", "P", "intro", (section, Section("only text", "words"))).markdown()
    assert "| a\\|b | 90.00 | - | 100.00 | [R] | -10.0% | why |" in text  # believed
    assert "| c | 90.00 | 100.00 | - | [V] | -10.0% |  |" in text


class TestEdgeShard:
    def test_writes_its_files(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(edgeshard_study, "SHAPES", SHAPES[:1])
        monkeypatch.setattr(edgeshard_study, "MBPS", (1, 50))
        page, files = write_study("edgeshard", tmp_path)
        document = check_files(page, files)
        for row in document["sections"][0]["rows"]:
            assert row["tag"] in ("[V]", "[V2]", "[R]", "[D]", "[I]")

    def test_cloud_edge_opt_stays_local_at_1_mbps(self) -> None:
        found = edgeshard_study.METHODS["Cloud-Edge-Opt"](problem(SHAPES[0], mbps=1))
        assert found.plan.devices == ("agx-1",)

    def test_the_7b_cells(self) -> None:
        cells = {cell.what.partition(", ")[2]: cell for cell in latency_cells(SHAPES[0])}
        even, exact = cells["Cloud-Edge-Even"], cells["EdgeShard (exact)"]
        assert even.ours == pytest.approx(227.35, rel=0.05)
        assert exact.difference is not None
        assert -0.27 < exact.difference < -0.17
        assert exact.tag == "[V2]"
        assert cells["Edge-Solo"].ours == pytest.approx(173.97)

    @pytest.mark.parametrize(("mbps", "derived"), edgeshard_study.DERIVED.items())
    def test_the_sweep_is_within_2_percent_of_the_notes(
        self, mbps: float, derived: tuple[float, float, float]
    ) -> None:
        methods = ("EdgeShard (exact)", "Cloud-Edge-Opt", "Cloud-Edge-Even")
        asked = problem(SHAPES[0], mbps=mbps)
        found = [milliseconds(method, asked)[0] for method in methods]
        assert found == pytest.approx(derived, rel=0.02)

    def test_another_source_hardly_matters(self) -> None:
        _, opt, exact = source_section().rows
        assert opt[1] == pytest.approx(8.74, abs=0.1)
        assert isinstance(exact[1], float)
        assert abs(exact[1]) < 1

    def test_throughput(self) -> None:
        asked = throughput_problem(SHAPES[0], 8, 8)
        even = rates(asked, METHODS["Cloud-Edge-Even"](asked))
        assert even.closed == pytest.approx(7.56, rel=0.02)
        best = rates(asked, METHODS["EdgeShard (Algorithm 2)"](asked))
        assert best.closed == pytest.approx(52.45, rel=0.12)
        for x in (even, best):
            assert x.closed > x.closed_bubbles
            assert x.simulated == pytest.approx(x.closed, rel=1e-6)
            assert x.simulated_bubbles == pytest.approx(x.closed_bubbles, rel=1e-6)

    def test_one_device_gains_nothing_without_bubbles(self) -> None:
        asked = throughput_problem(SHAPES[0], 8, 2)
        x = rates(asked, METHODS["Edge-Solo"](asked))
        assert x.closed == pytest.approx(x.closed_bubbles) == pytest.approx(x.simulated)


@pytest.fixture(scope="module")
def truncation() -> Truncation:
    return read_truncation("demo", BITS)


@pytest.fixture(scope="module")
def layers(truncation: Truncation) -> Layers:
    return Layers(truncation.weights, truncation.error, truncation.hidden_size)


class TestDilemma:
    def test_writes_its_files(self, tmp_path: Path) -> None:
        page = dilemma_page("demo", draws=1, questions=4)
        document = check_files(page, page.write(tmp_path))
        quality = document["sections"][1]["rows"]
        assert len(quality) == len(RATIOS)
        losses = [row["loss, [-1, 1]"] for row in quality]
        assert losses[0] < 0.01 * losses[-1]  # four bits of [-1, 1] leave little of small weights
        assert len(document["sections"][0]["rows"]) == len(RATIOS)

    def test_truncation_errs_like_the_square_of_its_step(self, truncation: Truncation) -> None:
        means = truncation.squared.sum(axis=1) / truncation.weights.sum()
        ratios = means[2:] / means[1:-1]
        assert ratios == pytest.approx([1 / 16] * len(ratios), rel=0.8)
        assert means[1] == pytest.approx((2.0**-5) ** 2 / 3, rel=0.1)  # 6 bits, step 2^-5

    def test_the_ladder_is_table_1s_but_for_one_row(self, layers: Layers) -> None:
        found = {delta: uniform_bits(layers, delta) for delta in RATIOS}
        published = {delta: ratio * 32 for delta, ratio in RATIOS.items()}
        assert [d for d in RATIOS if found[d] != published[d]] == [1e-5]
        assert found[1e-5] == 10

    def test_mixed_widths_keep_the_row_and_need_no_more_bits(self, layers: Layers) -> None:
        for delta in RATIOS:
            bits, uniform = chosen_bits(layers, delta), uniform_bits(layers, delta)
            assert bits is not None
            assert uniform is not None
            error = sum(layers.error[BITS.index(b), n] for n, b in enumerate(bits))
            assert error <= delta * (1 + 1e-6)
            assert sum(bits) <= uniform * len(bits)
        assert chosen_bits(layers, 1e-15) is None

    def test_the_objective_falls_with_link_speed_and_clock(self, layers: Layers) -> None:
        by_rate = [mean_objective(layers, 2, rate=rate)[0] for rate in (1e6, 1e8, 1e10)]
        by_clock = [mean_objective(layers, 2, clock=clock)[0] for clock in (1e9, 2e9, 4e9)]
        assert by_rate == sorted(by_rate, reverse=True)
        assert by_clock == sorted(by_clock, reverse=True)


class TestLlmPq:
    def test_writes_its_files_and_mixing_beats_uniform(self, tmp_path: Path) -> None:
        page = llm_pq_page(micro_batches=(1,))
        document = check_files(page, page.write(tmp_path))
        rows = document["sections"][2]["rows"]
        speed = {r["planner"]: r["tokens/s, whole answers (simulated)"] for r in rows}
        fixed = speed["llm-pq (fixed objective)"]
        assert fixed == max(speed.values())
        assert fixed > 1.5 * speed["uniform, then place"]

    def test_the_closed_form_meets_the_log(self) -> None:
        for row in closed_form().rows:
            ours, published = row[1:3]
            assert ours == pytest.approx(published, rel=1e-4)


@pytest.mark.skipif(not THOROUGH, reason="many plans are measured: make test-slow")
class TestQuality:
    def test_writes_its_files(self, tmp_path: Path) -> None:
        page = quality_page(
            "demo", recipes=("bf16", "4bit"), plans=6, answered=("fp32", "q4g64", "t8"), questions=4
        )
        document = check_files(page, page.write(tmp_path))
        recipes, additivity, mixed, answers = (x["rows"] for x in document["sections"])
        losses = {(x["recipe"], x["rounding"]): x["KL"] for x in recipes}
        assert losses["bf16", "-"] < losses["4bit", "gptq"] < losses["4bit", "plain"]
        assert len(additivity) == 5
        for row in mixed:
            assert row["bytes mixed, same loss"] <= row["bytes"]
        assert {row["scheme"] for row in answers} == {"fp32", "q4g64", "t8"}
