"""Numbers of the papers' notes: EdgeShard's reproduction check (1.10) and LLM-PQ's log (3.4)."""

import numpy as np
import pytest

from edgewise.planning import Objective
from edgewise.planning.cloud_edge import cloud_edge_even, cloud_edge_opt
from edgewise.planning.edgeshard_exact import edgeshard_exact
from edgewise.planning.edgeshard_throughput import edgeshard_throughput
from edgewise.planning.pipeline import published_makespan
from edgewise.studies.published import load_published
from tests.papers.papers import testbed as paper_testbed

MEANS = 0.015  # the notes used exact per-layer times, these tests their means


@pytest.mark.parametrize(
    ("mbps", "everyone", "two", "half"),
    [
        (1, 56.9, 174.0, 234.8),
        (5, 56.8, 75.7, 129.9),
        (10, 56.8, 62.6, 116.7),
        (25, 54.7, 54.7, 108.9),
        (50, 52.1, 52.1, 106.2),
    ],
)
def test_edgeshards_latencies(mbps: float, everyone: float, two: float, half: float) -> None:
    problem = paper_testbed(mbps)
    exact = edgeshard_exact(problem)
    assert exact.status == "optimal"
    assert exact.estimate.decode_seconds * 1e3 == pytest.approx(everyone, rel=MEANS)
    cut = cloud_edge_opt(problem)
    assert cut.estimate.decode_seconds * 1e3 == pytest.approx(two, rel=MEANS)
    assert (len(cut.plan.stages) == 1) is (mbps == 1)
    even = cloud_edge_even(problem)
    assert even.estimate.decode_seconds * 1e3 == pytest.approx(half, rel=MEANS)
    assert exact.estimate.decode_seconds <= cut.estimate.decode_seconds * (1 + 1e-9)


def test_edgeshard_relays_past_the_slow_link_and_hardly_minds_another_source() -> None:
    exact = edgeshard_exact(paper_testbed(1))
    assert [stage.device for stage in exact.plan.stages] == ["agx-1", "agx-2", "rtx"]
    assert exact.plan.stages[-1].end - exact.plan.stages[-1].start == 29
    other = edgeshard_exact(paper_testbed(1, "nx-1"))
    difference = other.estimate.decode_seconds - exact.estimate.decode_seconds
    assert abs(difference) < 1e-3


def test_edgeshards_throughput_uses_more_devices_and_beats_the_cut() -> None:
    problem = paper_testbed(1, objective=Objective.THROUGHPUT, micro_batches=8)
    best, cut = edgeshard_throughput(problem), cloud_edge_opt(problem)
    assert best.estimate.bottleneck_seconds < cut.estimate.bottleneck_seconds / 5
    assert len(best.plan.devices) == len(best.plan.stages) > 2


def test_llm_pqs_published_objective_adds_up_to_its_solvers_log() -> None:
    log = load_published("llm-pq")
    prefill, decode = (
        np.array([row["first"].value, *[row["others"].value] * 3], float)
        for row in log["stages"].values()
    )
    filling, steps, both = (row["total"].value for row in log["objective"].values())
    zeros = np.zeros(4)
    # Stages are printed to 0.1 ms and count seven times, to 0.01 ms and count three hundred times.
    assert published_makespan(prefill, zeros, 4, 4, 100) == pytest.approx(filling, abs=7 * 0.05)
    assert published_makespan(zeros, decode, 4, 4, 100) == pytest.approx(steps, abs=1.52)
    assert published_makespan(prefill, decode, 4, 4, 100) == pytest.approx(both, abs=2)
    assert published_makespan(zeros, decode, 4, 1, 100) == pytest.approx(decode.sum())  # the flaw
