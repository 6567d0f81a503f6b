"""Timing in the pipeline's own rhythm: the devices take turns, each woken by a message, as they do
when a token travels round. A tight loop on one device flatters it: caches stay warm.

A step of n equal layers takes `step + n * layer` seconds, so two values of n tell both apart.
"""

from collections.abc import Callable
from dataclasses import dataclass
from statistics import median

from edgewise.profiles import LayerTiming, LinkTiming, Profile, StepTiming
from edgewise.runtime.local import LocalDevices
from edgewise.schemes import get_scheme
from edgewise.specs import Cluster, LayerKind, ModelSpec, Workload

TIME_SECONDS = 300.0
REPEATS = 20
WARM_UP = 3
SMALL_BLOCK_BYTES = 64 * 2**20  # the cost of a step shows only beside blocks smaller than this
FASTEST = 1e-12  # seconds per byte: below this a slope is noise
LINK_BYTES = 2**15

Progress = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class _Trial:
    """Layers [start, end) and the shapes (new tokens, cached tokens) to run them in."""

    start: int
    end: int
    shapes: tuple[tuple[int, int], ...]


@dataclass(frozen=True, slots=True)
class _Bench:
    devices: LocalDevices
    model: str
    scheme: str
    context: int
    on_progress: Progress

    def run(self, trial: _Trial) -> dict[str, list[float]]:
        """Median seconds per shape, by device, the devices taking turns."""
        names = [device.name for device in self.devices.cluster.devices]
        body = {"model": self.model, "start": trial.start, "end": trial.end}
        body |= {"scheme": self.scheme, "context": self.context}
        for name in names:
            self.devices.call(name, "prepare", body, "prepared", TIME_SECONDS)
        found: dict[str, list[float]] = {name: [] for name in names}
        for tokens, past in trial.shapes:
            self.on_progress(f"layers {trial.start}-{trial.end - 1}, {tokens} tokens")
            seconds: dict[str, list[float]] = {name: [] for name in names}
            shape = {"tokens": tokens, "past": past}
            for _ in range(WARM_UP + REPEATS):
                for name in names:
                    message = self.devices.call(name, "time", shape, "timed", TIME_SECONDS)
                    seconds[name].append(message.body["seconds"])
            for name in names:
                found[name].append(median(seconds[name][WARM_UP:]))
        return found


def measure(
    devices: LocalDevices,
    model: str,
    spec: ModelSpec,
    workload: Workload,
    scheme: str,
    on_progress: Progress = lambda what: None,
) -> Profile:
    """Time every kind of layer on every device, and all links.

    `model` names the checkpoint whose configuration the workers read; weights are random.
    """
    bench = _Bench(devices, model, scheme, workload.context, on_progress)
    embedding, one, several, head = trials = _trials(spec, workload, scheme)
    times = [bench.run(trial) for trial in trials]
    layers: list[LayerTiming] = []
    steps: list[StepTiming] = []
    for device in devices.cluster.devices:
        name = device.name
        e, a, b, h = (found[name] for found in times)
        more = several.end - several.start - 1
        slopes = [max((y - x) / more, 0.0) for x, y in zip(a, b, strict=True)]
        step = max(a[0] - slopes[0], 0.0)
        steps.append(StepTiming(name, step))
        for kind, trial, seconds in (
            (LayerKind.EMBEDDING, embedding, [max(x - step, 0.0) for x in e]),
            (LayerKind.BLOCK, one, slopes),
            (LayerKind.HEAD, head, [max(x - step, 0.0) for x in h]),
        ):
            for (tokens, past), value in zip(trial.shapes, seconds, strict=True):
                layers.append(LayerTiming(name, kind, scheme, tokens, past, value))
    links = _links(devices, on_progress)
    return Profile(spec.digest, tuple(layers), tuple(steps), tuple(links))


def _trials(spec: ModelSpec, workload: Workload, scheme: str) -> list[_Trial]:
    """The embedding, one block, several blocks, the head: decoding at both ends of the answer,
    and two lengths of prompt (of which the head sees a single position)."""
    prompt = max(workload.prompt_tokens, 3)
    decode = ((1, prompt), (1, max(workload.context - 1, prompt + 1)))
    both = (*decode, (prompt // 2, 0), (prompt, 0))
    small = spec.layers[1].weight_bytes(get_scheme(scheme)) < SMALL_BLOCK_BYTES
    blocks = min(4 if small else 2, spec.num_blocks)
    return [
        _Trial(0, 1, both),
        _Trial(1, 2, both),
        _Trial(1, 1 + blocks, both),
        _Trial(spec.num_layers - 1, spec.num_layers, decode),
    ]


def _links(devices: LocalDevices, on_progress: Progress) -> list[LinkTiming]:
    """Every link that has a way back, and the way from the coordinator into the source's worker."""
    cluster = devices.cluster
    on_progress(f"link into {cluster.source}")
    within = median(devices.round_trip(cluster.source) for _ in range(REPEATS))
    found = [LinkTiming(cluster.source, cluster.source, within / 2, 1 / FASTEST)]
    for link in cluster.links:
        if cluster.link(link.target, link.source) is None or link.source == link.target:
            continue
        on_progress(f"link {link.source} -> {link.target}")
        small, large = (
            median(_probe(devices, link.source, link.target, size) for _ in range(REPEATS))
            for size in (0, LINK_BYTES)
        )
        # Without synchronised clocks a round trip cannot be split, so each direction gets half of
        # it; the bandwidth, from the larger message, is the link's own.
        rate = 1 / max((large - small) / LINK_BYTES, FASTEST)
        found.append(LinkTiming(link.source, link.target, small / 2, rate))
    return found


def _probe(devices: LocalDevices, source: str, target: str, size: int) -> float:
    body = {"target": target, "size": size}
    return float(devices.call(source, "probe", body, "probed", TIME_SECONDS).body["seconds"])


def num_measurements(cluster: Cluster) -> int:
    """How many times `measure` reports progress, at most."""
    return 3 * 4 + 2 + len(cluster.links) + 1
