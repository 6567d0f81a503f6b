"""Parts of a model in running workers: timed in passes, after pauses, and all devices at once."""

import os

import pytest

from edgewise.clusters import Cluster, Device, Network
from edgewise.demo import MODEL_FOLDER
from edgewise.models.checkpoint import open_checkpoint
from edgewise.models.shape import ModelShape
from edgewise.profiling import Grid
from edgewise.profiling.bench import PASSES, Bench, TimedLayers
from edgewise.runtime.local import start_local
from edgewise.specs import Workload

NAMES = ("a", "b", "c")
CLUSTER = Cluster(
    tuple(Device(name, 10**9) for name in NAMES), (), "a", (Network(NAMES, 1e8, 0.0),)
)
GRID = Grid.around(Workload(200, 20))
DECODE = GRID.decode[:1]


def bench_of(workers, said):
    shape = ModelShape.of(open_checkpoint(str(MODEL_FOLDER))).to_json()
    return Bench(workers, NAMES, shape, GRID, said.append)


def test_parts_are_timed_one_after_the_other_and_all_again():
    said = []
    parts = TimedLayers(1, 2, DECODE), TimedLayers(1, 3, (*DECODE, GRID.prefill[-1]))
    with start_local(CLUSTER) as workers:
        timed = bench_of(workers, said).run("fp32", parts)
    a_pass = ["fp32: layers 1-1", "fp32: layers 1-2", "fp32: layers 1-2"]
    passes = len(said) // len(a_pass)
    assert said == a_pass * passes
    assert 2 <= passes <= PASSES  # one has fewer steps than a median needs
    for name in NAMES:
        assert {part: tuple(run.seconds) for part, run in timed[name].items()} == {
            part: part.shapes for part in parts
        }
        assert all(seconds > 0 for part in parts for seconds in timed[name][part].seconds.values())
        assert timed[name][parts[1]].weight_bytes == 2 * timed[name][parts[0]].weight_bytes
        assert timed[name][parts[0]].busy_ratio == 1  # nobody asked


@pytest.mark.timing
def test_devices_that_are_busy_at_once_take_a_shared_processor_from_each_other():
    """Three on one core take three times as long, less what waking up would have cost: timed one
    device at a time they would take no longer."""
    part = TimedLayers(1, 5, GRID.prefill[-1:], busy=True)
    with start_local(CLUSTER) as workers:
        for process in workers.process_ids.values():
            os.sched_setaffinity(process, {min(os.sched_getaffinity(0))})
        timed = bench_of(workers, []).run("fp32", (part,))
    assert sum(timed[name][part].busy_ratio for name in NAMES) / len(NAMES) > 1.2
