"""Flower's rounds with the merging rules of this package: the only file that knows of Flower. One
strategy for all rules; what they merge, they do not know from where.

Flower 1.41 is no extra yet: it wants typer below 0.21, the command line 0.29 or later."""

from collections.abc import Iterable
from logging import WARNING
from typing import Any

import numpy as np
from flwr.app import Array, ArrayRecord, ConfigRecord, Message, MetricRecord, RecordDict
from flwr.common.logger import log
from flwr.serverapp import Grid
from flwr.serverapp.strategy import FedAvg
from numpy.typing import NDArray

from edgewise.federating.averaging import exact_average
from edgewise.federating.election import Rule
from edgewise.federating.robust import clipped_to_median
from edgewise.federating.updates import Arrays, Update, sift


class Merging(FedAvg):
    """A round of Flower's FedAvg, whose replies are sifted and then merged by `rule`: by default
    the exact average of private adapters, whose clients all draw U and D from the adapter's seed,
    which the caller puts into `train_config`. Where `clip`, nobody moves further than the median
    client. Replies hold one record of arrays, and "num-examples" among the metrics. A client that
    sends something else is refused with a warning, by name, and the round goes on without it.
    `options` are FedAvg's."""

    def __init__(self, rule: Rule = exact_average, clip: bool = False, **options: Any) -> None:
        super().__init__(**options)
        self.rule, self.clip = rule, clip
        self.start_arrays: Arrays = {}

    def configure_train(
        self, server_round: int, arrays: ArrayRecord, config: ConfigRecord, grid: Grid
    ) -> Iterable[Message]:
        self.start_arrays = {name: array.numpy() for name, array in arrays.items()}
        messages: Iterable[Message] = super().configure_train(server_round, arrays, config, grid)
        return messages

    def aggregate_train(
        self, server_round: int, replies: Iterable[Message]
    ) -> tuple[ArrayRecord | None, MetricRecord | None]:
        """The merged arrays, or None where no reply can be used, after which the next round begins
        as this one did; and how many clients were merged and how many refused."""
        answers, _ = self._check_and_log_replies(list(replies), is_train=True, validate=False)
        updates = [
            update_of(x.content, str(x.metadata.src_node_id), self.weighted_by_key) for x in answers
        ]
        fit, refused = sift(updates, self.start_arrays)
        for reason in refused:
            log(WARNING, "round %s: %s", server_round, reason)
        if self.clip:
            fit = clipped_to_median(fit, self.start_arrays)
        counts = MetricRecord({"merged": len(fit), "refused": len(refused)})
        return (record_of(self.rule(fit)) if fit else None), counts


def record_of(arrays: Arrays) -> ArrayRecord:
    return ArrayRecord({name: Array(array) for name, array in arrays.items()})


def update_of(content: RecordDict, client: str, weighted_by: str = "num-examples") -> Update:
    """What a reply says. One whose records cannot be read is an update of no samples and no arrays,
    which `sift` refuses."""
    try:
        (arrays,) = content.array_records.values()
        (metrics,) = content.metric_records.values()
        samples = int(metrics[weighted_by])
        return Update(client, samples, {name: _read(x) for name, x in arrays.items()})
    except (KeyError, TypeError, ValueError, OverflowError, EOFError, MemoryError):
        return Update(client, 0, {})


def _read(array: Array) -> NDArray[Any]:
    """Flower reads without pickle; what is no array, such as an archive of several, is refused."""
    numbers = array.numpy()
    if not isinstance(numbers, np.ndarray):
        raise TypeError(f"a {type(numbers).__name__} is no array")
    return numbers
