"""Which shapes are timed for requests that come and go."""

from edgewise.profiling import Grid
from edgewise.specs import Workload


def test_serving_times_one_request_beside_the_whole_batch() -> None:
    work = Workload(100, 60, sequences=8, micro_batches=2)
    around, serving = Grid.around(work), Grid.serving(work)
    assert set(around.decode) < set(serving.decode)
    assert set(around.prefill) < set(serving.prefill)
    assert {shape[0] for shape in (*serving.decode, *serving.prefill)} == {1, 4}
    alone = Workload(100, 60)
    assert Grid.serving(alone) == Grid.around(alone)
