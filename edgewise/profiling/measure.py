"""Timing in the pipeline's own rhythm: the devices take turns, each woken by a message after a
pause, as they are when a token travels round. A tight loop flatters them: it finds warm caches and
a core that is awake. For small models that is half of the true time (dev/LOG.md, 2026-11-21).

A step of n equal layers takes `step + n * layer` seconds, so two values of n tell both apart. What
an embedding or a head costs is what it adds to a step; only beside large blocks, whose own noise
would drown it, it is timed alone.
"""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from statistics import median, quantiles

from edgewise.clusters import Cluster, Link
from edgewise.profiles import DeviceReading, LayerMemory, LayerTiming, LinkTiming, Profile
from edgewise.runtime.local import LocalDevices
from edgewise.schemes import get_scheme
from edgewise.specs import LayerKind, ModelSpec, Workload

TIME_SECONDS = 300.0
WARM_UP = 3
PAUSE_SECONDS = 0.005  # after longer pauses, steps hardly get slower
SMALL_BLOCK_BYTES = 64 * 2**20  # the cost of a step shows only beside blocks smaller than this
MOST_BLOCKS = 12  # timed together: the smaller they are, the more it takes to tell them from noise
FASTEST = 1e-12  # seconds per byte: below this a slope is noise
LINK_BYTES = 2**15
LEAST_REPEATS = 5
PRECISION = 0.01  # of a median: its standard error, after which nothing is timed again
LINK_REPEATS = 10
LEAST_LINK_REPEATS = 3
LINK_SECONDS = 0.3  # of probes of one link and size, beyond the first few: slow links vary less

Progress = Callable[[str], None]
Shape = tuple[int, int, int]  # sequences, new tokens, cached tokens


@dataclass(frozen=True, slots=True)
class Grid:
    """The shapes to time, each at most `repeats` times."""

    decode: tuple[Shape, ...]
    prefill: tuple[Shape, ...]
    repeats: int = 20

    @property
    def context(self) -> int:
        return max(tokens + past for _, tokens, past in (*self.decode, *self.prefill))

    @property
    def sequences(self) -> int:
        return max(sequences for sequences, *_ in (*self.decode, *self.prefill))

    @staticmethod
    def around(workload: Workload) -> "Grid":
        """Just what one workload needs: half and whole contexts and prompts."""
        batch, last, prompt = workload.batch, workload.context - 1, max(workload.prompt_tokens, 2)
        decode = sorted({max(last // 2, 1), last})
        prefill = sorted({max(prompt // 2, 2), prompt})
        return Grid(
            tuple((batch, 1, past) for past in decode),
            tuple((batch, length, 0) for length in prefill),
        )

    @staticmethod
    def wide(context: int) -> "Grid":
        """Contexts, lengths and batches for any workload of up to `context` tokens."""
        ends = sorted({max(context * part // 8, 4) for part in (1, 3, 5, 7)})
        decode = [(1, 1, past) for past in ends]
        decode += [(batch, 1, past) for batch in (2, 4, 8) for past in (ends[0], ends[-1])]
        lengths = sorted({max(min(length, context - 1), 2) for length in (16, 64, 128, 256, 512)})
        prefill = [(1, length, 0) for length in lengths]
        prefill += [(batch, length, 0) for batch in (2, 4) for length in lengths[:3]]
        return Grid(tuple(decode), tuple(prefill), repeats=7)


@dataclass(frozen=True, slots=True)
class _Bench:
    devices: LocalDevices
    names: tuple[str, ...]
    model: str
    grid: Grid
    on_progress: Progress

    def run(self, scheme: str, start: int, end: int, shapes: Sequence[Shape]) -> dict[str, "_Run"]:
        """Layers [start, end) per shape, by device, the devices taking turns."""
        body = {"model": self.model, "start": start, "end": end, "scheme": scheme}
        body |= {"context": self.grid.context, "slots": self.grid.sequences}
        weight_bytes = {
            name: int(
                self.devices.call(name, "prepare", body, "prepared", TIME_SECONDS).body["bytes"]
            )
            for name in self.names
        }
        found: dict[str, list[float]] = {name: [] for name in self.names}
        for shape in shapes:
            self.on_progress(f"{scheme}: layers {start}-{end - 1}")
            self._turn(shape, WARM_UP)
            seconds = self._turn(shape, LEAST_REPEATS)
            while not all(map(is_known, seconds.values())):
                if len(seconds[self.names[0]]) >= self.grid.repeats:
                    break
                for name, more in self._turn(shape, 1).items():
                    seconds[name] += more
            for name in self.names:
                found[name].append(median(seconds[name]))
        return {name: _Run(found[name], weight_bytes[name]) for name in self.names}

    def _turn(self, shape: Shape, times: int) -> dict[str, list[float]]:
        """So many steps of every device, each after the others'; their seconds."""
        seconds: dict[str, list[float]] = {name: [] for name in self.names}
        for _ in range(times):
            for name in self.names:
                time.sleep(PAUSE_SECONDS)
                message = self.devices.call(name, "time", {"shape": shape}, "timed", TIME_SECONDS)
                seconds[name].append(message.body["seconds"])
        return seconds


def is_known(seconds: Sequence[float]) -> bool:
    """Whether the median of at least four numbers is known to PRECISION. Of n normal ones its
    standard error is sqrt(pi / 2) sigma / sqrt(n), and quartiles are 1.349 sigma apart."""
    low, middle, high = quantiles(seconds, n=4)
    return 1.2533 * (high - low) / 1.349 / len(seconds) ** 0.5 <= PRECISION * middle


@dataclass(frozen=True, slots=True)
class _Run:
    """Median seconds of some layers per shape, and the bytes that their weights take."""

    seconds: list[float]
    weight_bytes: int


def measure(
    devices: LocalDevices,
    model: str,
    spec: ModelSpec,
    schemes: Sequence[str],
    grid: Grid,
    on_progress: Progress = lambda what: None,
) -> Profile:
    """Time every kind of layer on every kind of device in every scheme, and all links.

    `model` names the checkpoint whose configuration the workers read; weights are random.
    """
    kinds: dict[str, str] = {}
    for device in devices.cluster.devices:
        kinds.setdefault(device.kind, device.name)
    bench = _Bench(devices, tuple(kinds.values()), model, grid, on_progress)
    layers: list[LayerTiming] = []
    memory: list[LayerMemory] = []
    steps: dict[str, list[float]] = {kind: [] for kind in kinds}
    for scheme in schemes:
        for kind, step, timings, sizes in _time_scheme(bench, spec, scheme, kinds):
            steps[kind].append(step)
            layers += timings
            memory += sizes
    readings = tuple(
        _read(devices, kind, name, median(steps[kind])) for kind, name in kinds.items()
    )
    links = tuple(_links(devices, on_progress))
    return Profile(spec.digest, tuple(layers), readings, links, tuple(memory))


def _time_scheme(
    bench: _Bench, spec: ModelSpec, scheme: str, kinds: dict[str, str]
) -> list[tuple[str, float, list[LayerTiming], list[LayerMemory]]]:
    """Per kind of device: seconds of a step, the timings of each kind of layer, and their sizes."""
    alike = SMALL_BLOCK_BYTES // spec.layers[1].weight_bytes(get_scheme(scheme))
    small, blocks = alike > 0, min(max(alike, 2), MOST_BLOCKS, spec.num_blocks)
    beside = 1 if small else 0
    grid, last = bench.grid, spec.num_layers - 1
    both = (*grid.decode, *grid.prefill)
    embedding = bench.run(scheme, 0, 1 + beside, both)
    one = bench.run(scheme, 1, 2, both)
    several = bench.run(scheme, 1, 1 + blocks, both) if blocks > 1 else one
    head = bench.run(scheme, last - beside, last + 1, grid.decode)
    found = []
    for kind, name in kinds.items():
        pairs = zip(one[name].seconds, several[name].seconds, strict=True)
        slopes = [max((b - a) / (blocks - 1), 0.0) if blocks > 1 else a for a, b in pairs]
        step = max(one[name].seconds[0] - slopes[0], 0.0)
        others = one[name].seconds if small else [step] * len(both)
        timings = [
            LayerTiming(kind, layer, scheme, *shape, seconds)
            for layer, times in (
                (LayerKind.EMBEDDING, _added(embedding[name].seconds, others)),
                (LayerKind.BLOCK, slopes),
                (LayerKind.HEAD, _added(head[name].seconds, others)),
            )
            for shape, seconds in zip(both, times, strict=False)
        ]
        block = one[name].weight_bytes
        ends = [run[name].weight_bytes - beside * block for run in (embedding, head)]
        held = (ends[0], block, ends[1])
        sizes = [
            LayerMemory(kind, layer, scheme, count)
            for layer, count in zip(LayerKind, held, strict=True)
        ]
        found.append((kind, step, timings, sizes))
    return found


def _added(seconds: Sequence[float], others: Sequence[float]) -> list[float]:
    """What is left of steps when the rest of them is taken away."""
    return [max(a - b, 0.0) for a, b in zip(seconds, others, strict=False)]


def _read(devices: LocalDevices, kind: str, name: str, step: float) -> DeviceReading:
    body = devices.call(name, "describe", {}, "described", TIME_SECONDS).body
    return DeviceReading(kind, step, body["free_bytes"], body["machine"])


def _links(devices: LocalDevices, on_progress: Progress) -> list[LinkTiming]:
    """Every link that has a way back, and the way from the coordinator into the source's worker."""
    cluster = devices.cluster
    on_progress(f"link into {cluster.source}")
    within = median(_enter(devices) for _ in range(LINK_REPEATS))
    found = [LinkTiming(cluster.source, cluster.source, within / 2, 1 / FASTEST)]
    for link in cluster.all_links():
        if cluster.link(link.target, link.source) is None:
            continue
        on_progress(f"link {link.source} -> {link.target}")
        small, large = (median(_probes(devices, link, size)) for size in (0, LINK_BYTES))
        # Without synchronised clocks a round trip cannot be split, so each direction gets half of
        # it; the bandwidth, from the larger message, is the link's own.
        rate = 1 / max((large - small) / LINK_BYTES, FASTEST)
        found.append(LinkTiming(link.source, link.target, small / 2, rate))
    return found


def _enter(devices: LocalDevices) -> float:
    time.sleep(PAUSE_SECONDS)
    return devices.round_trip(devices.cluster.source)


def _probes(devices: LocalDevices, link: Link, size: int) -> list[float]:
    """Seconds of round trips over a link with so many bytes on the way there."""
    body, found = {"target": link.target, "size": size}, list[float]()
    while len(found) < LEAST_LINK_REPEATS or (
        len(found) < LINK_REPEATS and sum(found) < LINK_SECONDS
    ):
        time.sleep(PAUSE_SECONDS)
        message = devices.call(link.source, "probe", body, "probed", TIME_SECONDS)
        found.append(float(message.body["seconds"]))
    return found


def num_measurements(cluster: Cluster, schemes: Sequence[str], grid: Grid) -> int:
    """How many times `measure` reports progress, at most."""
    shapes = 4 * len(grid.decode) + 3 * len(grid.prefill)
    return len(schemes) * shapes + len(cluster.all_links()) + 1
