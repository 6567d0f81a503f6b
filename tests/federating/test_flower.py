"""Flower's own rounds in process: its strategy loop, messages and client app, without a network.

Flower has no public way to run without its servers or Ray: a grid that calls the client app, and
the identity of the task, which messages ask for and which is private (flwr 1.41)."""

import pickle
from collections.abc import Iterable
from io import BytesIO
from types import SimpleNamespace

import numpy as np
import pytest

pytest.importorskip("flwr")

from flwr.app import (
    Array,
    ArrayRecord,
    ConfigRecord,
    Context,
    Error,
    Message,
    MetricRecord,
    RecordDict,
)
from flwr.clientapp import ClientApp
from flwr.serverapp import Grid
from flwr.supercore.task_identity import TaskIdentity

from edgewise.federating.flower import Merging, record_of
from edgewise.federating.robust import coordinate_median

MIDDLE, SHAPE = "0.q.middle", (4, 4)
SERVER, DEAD = 1, 99


def own(client: int) -> np.ndarray:
    """What a client adds to the common M."""
    return np.random.default_rng(client).standard_normal(SHAPE).astype(np.float32)


def lie(client: int, arrays: np.ndarray) -> np.ndarray:
    return {66: arrays * np.nan, 67: arrays[:2], 68: arrays * np.float32(1e6)}.get(client, arrays)


app = ClientApp()


@app.train()
def train(message: Message, context: Context) -> Message:
    client = context.node_id
    before = message.content["arrays"][MIDDLE].numpy()
    content = RecordDict({
        "arrays": record_of({MIDDLE: lie(client, before + own(client))}),
        "metrics": MetricRecord({"num-examples": 10 * client}),
    })  # fmt: skip
    return Message(content, reply_to=message)


class InProcess(Grid):
    """Calls the client app of every node at once; node 99 answers that it died."""

    def __init__(self, *nodes: int) -> None:
        self.nodes = nodes
        TaskIdentity.run_id, TaskIdentity.task_id, TaskIdentity.node_id = 1, 1, SERVER

    def get_node_ids(self) -> Iterable[int]:
        return self.nodes

    def send_and_receive(
        self, messages: Iterable[Message], *, timeout: float | None = None
    ) -> list[Message]:
        return [self._answer(message) for message in messages]

    def _answer(self, message: Message) -> Message:
        node = message.metadata.dst_node_id
        if node == DEAD:
            return Message(Error(0, "died"), reply_to=message)
        return app(message, Context(1, node, {}, RecordDict(), {}))

    def set_run(self, run: object) -> None:
        raise NotImplementedError

    @property
    def run(self) -> SimpleNamespace:
        raise NotImplementedError

    def create_message(self, *_: object, **__: object) -> Message:
        raise NotImplementedError

    def push_messages(self, messages: Iterable[Message]) -> Iterable[str]:
        raise NotImplementedError

    def pull_messages(self, message_ids: Iterable[str]) -> Iterable[Message]:
        raise NotImplementedError


def learned(strategy: Merging, *nodes: int, rounds: int = 3):
    start = record_of({MIDDLE: np.zeros(SHAPE, np.float32)})
    return strategy.start(InProcess(*nodes), start, num_rounds=rounds)


def merging(**options: object) -> Merging:
    return Merging(fraction_evaluate=0.0, min_train_nodes=1, min_available_nodes=1, **options)


def test_three_rounds_add_the_weighted_mean_three_times() -> None:
    result = learned(merging(), 2, 3, 5)
    mean = np.average([own(2), own(3), own(5)], axis=0, weights=[20, 30, 50])
    assert np.allclose(result.arrays[MIDDLE].numpy(), 3 * mean, atol=1e-6)
    assert dict(result.train_metrics_clientapp[3]) == {"merged": 3, "refused": 0}


def test_a_round_goes_on_without_the_dead_and_who_cannot_be_merged() -> None:
    result = learned(merging(), 2, 66, 3, DEAD, 67)
    mean = np.average([own(2), own(3)], axis=0, weights=[20, 30])
    assert np.allclose(result.arrays[MIDDLE].numpy(), 3 * mean, atol=1e-6)
    assert dict(result.train_metrics_clientapp[1]) == {"merged": 2, "refused": 2}


def test_another_rule_resists_who_scales() -> None:
    result = learned(merging(rule=coordinate_median), 2, 3, 5, 7, 68, rounds=1)
    honest = np.stack([own(x) for x in (2, 3, 5, 7)])
    merged = result.arrays[MIDDLE].numpy()
    assert (merged >= honest.min(0)).all()
    assert (merged <= honest.max(0)).all()


def test_clipping_takes_a_scaled_lie_back_to_an_ordinary_length() -> None:
    merged = learned(merging(clip=True), 2, 3, 5, 68, rounds=1).arrays[MIDDLE].numpy()
    assert np.linalg.norm(merged) <= max(np.linalg.norm(own(x)) for x in (2, 3, 5, 68))


def test_a_round_without_any_use_leaves_the_arrays_as_they_were() -> None:
    strategy = merging()
    arrays = record_of({MIDDLE: np.ones(SHAPE, np.float32)})
    grid = InProcess(66, DEAD)
    messages = strategy.configure_train(1, arrays, ConfigRecord(), grid)
    merged, counts = strategy.aggregate_train(1, grid.send_and_receive(messages))
    assert merged is None
    assert dict(counts) == {"merged": 0, "refused": 1}


def zipped() -> bytes:
    """Arrays in an archive, which numpy reads as something that is no array."""
    archive = BytesIO()
    np.savez(archive, np.ones(SHAPE, np.float32))
    return archive.getvalue()


@pytest.mark.parametrize("data", [b"", b"nothing", zipped(), pickle.dumps(SHAPE)])
def test_bytes_that_are_no_array_are_refused(data: bytes) -> None:
    strange = Array("float32", SHAPE, "numpy.ndarray", data)
    assert_refused(RecordDict({
        "arrays": ArrayRecord({MIDDLE: strange}), "metrics": MetricRecord({"num-examples": 1})
    }))  # fmt: skip


@pytest.mark.parametrize("metric", [float("nan"), float("inf"), [1, 2], -1])
def test_samples_that_are_no_number_of_samples_are_refused(metric: float | list[int]) -> None:
    arrays = record_of({MIDDLE: np.ones(SHAPE, np.float32)})
    assert_refused(
        RecordDict({"arrays": arrays, "metrics": MetricRecord({"num-examples": metric})})
    )


def test_a_reply_without_its_records_is_refused() -> None:
    assert_refused(RecordDict())
    assert_refused(RecordDict({"arrays": record_of({MIDDLE: np.ones(SHAPE, np.float32)})}))


def assert_refused(content: RecordDict) -> None:
    strategy, arrays = merging(), record_of({MIDDLE: np.ones(SHAPE, np.float32)})
    (message,) = strategy.configure_train(1, arrays, ConfigRecord(), InProcess(2))
    merged, counts = strategy.aggregate_train(1, [Message(content, reply_to=message)])
    assert merged is None
    assert dict(counts) == {"merged": 0, "refused": 1}
