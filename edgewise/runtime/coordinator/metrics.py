"""An engine's numbers in Prometheus's text format."""

from collections.abc import Callable, Iterator

from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
    Metric,
)
from prometheus_client.registry import Collector
from prometheus_client.utils import floatToGoString

from edgewise.runtime.stats import Durations, Stats

STAGE, LINK = ("stage", "device", "layers"), ("source", "target")


class EngineCollector(Collector):
    """Asks an engine whenever it is asked itself; belongs to no registry until it is put in one.
    What counts for a stage or link begins at 0 with every plan, as counters may."""

    def __init__(self, stats: Callable[[], Stats]) -> None:
        self._stats = stats

    def collect(self) -> Iterator[Metric]:
        stats = self._stats()
        yield from _requests(stats)
        yield from _tokens(stats)
        yield from _plan(stats)


def metrics_text(stats: Stats) -> str:
    """All metrics of one snapshot."""
    registry = CollectorRegistry(auto_describe=False)
    registry.register(EngineCollector(lambda: stats))
    return generate_latest(registry).decode()


def _requests(stats: Stats) -> Iterator[Metric]:
    yield _gauge("requests_waiting", "Requests that wait for room.", stats.waiting)
    yield _gauge("requests_running", "Requests that are being answered.", stats.running)
    ended = CounterMetricFamily("edgewise_requests", "Requests that ended.", labels=("outcome",))
    for outcome in ("finished", "failed", "cancelled"):
        ended.add_metric((outcome,), getattr(stats, outcome))
    yield ended
    yield _histogram(
        "time_to_first_token", "From submitting a request to its first token.", stats.first_token
    )
    yield _histogram(
        "time_per_output_token", "From one token of a request to its next.", stats.per_token
    )


def _tokens(stats: Stats) -> Iterator[Metric]:
    yield _counter("prompt_tokens", "Tokens of prompts that were read.", stats.prompt_tokens)
    yield _counter(
        "prompt_tokens_shared", "Of prompts, copied from another's cache.", stats.shared_tokens
    )
    yield _counter("generation_tokens", "Tokens of answers.", stats.new_tokens)
    yield _gauge("tokens_per_second", "Of answers, lately.", stats.tokens_per_second)


def _plan(stats: Stats) -> Iterator[Metric]:
    busy = CounterMetricFamily(
        "edgewise_stage_busy_seconds", "Time that a stage computed.", labels=STAGE
    )
    waiting = CounterMetricFamily(
        "edgewise_stage_waiting_seconds",
        "Time that a stage did not compute, though something was in the pipeline.",
        labels=STAGE,
    )
    for number, stage in enumerate(stats.stages):
        labels = str(number), stage.device, f"{stage.start}-{stage.end - 1}"
        busy.add_metric(labels, stage.busy_seconds)
        waiting.add_metric(labels, stage.waiting_seconds)
    sent = CounterMetricFamily(
        "edgewise_link_bytes", "Hidden states, token ids and D x that were sent.", labels=LINK
    )
    for link in stats.links:
        sent.add_metric((link.source, link.target), link.bytes)
    memory = GaugeMetricFamily(
        "edgewise_memory_bytes", "Weights and caches that a device holds.", labels=("device",)
    )
    for device, size in stats.memory_bytes.items():
        memory.add_metric((device,), size)
    yield from (busy, waiting, sent, memory)
    yield _counter("replans", "Plans that replaced another one.", stats.replans)


def _gauge(name: str, text: str, value: float) -> Metric:
    return GaugeMetricFamily(f"edgewise_{name}", text, value=value)


def _counter(name: str, text: str, value: float) -> Metric:
    return CounterMetricFamily(f"edgewise_{name}", text, value=value)


def _histogram(name: str, text: str, durations: Durations) -> Metric:
    buckets = [(floatToGoString(bound), count) for bound, count in durations.within]
    return HistogramMetricFamily(
        f"edgewise_{name}_seconds", text, buckets=buckets, sum_value=durations.total
    )
