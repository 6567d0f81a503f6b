"""Timing in the pipeline's own rhythm: the devices take turns, each woken by a message after a
pause, as they are when a token travels round. A tight loop flatters them: it finds warm caches and
a core that is awake. For small models that is half of the true time (dev/LOG.md, 2026-11-21).

A step of n equal layers takes `step + n * layer` seconds, so two values of n tell both apart, for
one token each; of a prompt's step nearly all is the layers'. What an embedding or a head costs is
what it adds to a step; only beside large blocks, whose own noise would drown it, it is timed alone.
Neither looks at cached tokens.
"""

import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from statistics import median, quantiles

from edgewise.clusters import Cluster, Link
from edgewise.costs import PREFILL_CHUNK
from edgewise.profiles import DeviceReading, LayerMemory, LayerTiming, Profile
from edgewise.runtime.local import LocalDevices
from edgewise.schemes import get_scheme
from edgewise.specs import LayerKind, ModelSpec, Workload

TIME_SECONDS = 300.0
WARM_UP = 1
PAUSE_SECONDS = 0.005  # after longer pauses, steps hardly get slower
SMALL_BLOCK_BYTES = 64 * 2**20  # the cost of a step shows only beside blocks smaller than this
MOST_BLOCKS = 12  # timed together: the smaller they are, the more it takes to tell them from noise
LEAST_SHARE = 0.01  # of a step with one block that is the block's: less is noise
FASTEST = 1e-12  # seconds per byte: below this a slope is noise
LINK_BYTES, MOST_LINK_BYTES = 2**15, 2**21  # on the way there; more where that passes at once
LINK_PART_SECONDS = 0.02  # a message that takes so long says how fast a link is
LEAST_REPEATS = 5
PRECISION = 0.02  # of a median: its standard error, after which nothing is timed again
LONG_SECONDS = 0.5  # of all devices' steps of one shape: no more of them are needed
ENDS = 3  # short prompts for an embedding: it costs next to nothing
LINK_REPEATS = 10
LEAST_LINK_REPEATS = 3
LINK_SECONDS = 0.6  # of probes of one link and size, beyond the first few: slow links vary less

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
    def ends(self) -> tuple[Shape, ...]:
        """Those at which embedding and head, which know no context, are timed."""
        decode, prefill = ({shape[:2]: shape for shape in x} for x in (self.decode, self.prefill))
        return (*decode.values(), *sorted(prefill.values(), key=lambda x: x[0] * x[1])[:ENDS])

    @property
    def sequences(self) -> int:
        return max(sequences for sequences, *_ in (*self.decode, *self.prefill))

    @staticmethod
    def around(workload: Workload) -> "Grid":
        """Just what one workload needs: half and whole contexts, prompts or their chunks, the last
        of which comes behind all the others."""
        batch, last, prompt = workload.batch, workload.context - 1, max(workload.prompt_tokens, 2)
        chunk = min(prompt, PREFILL_CHUNK)
        decode = sorted({max(last // 2, 1), last})
        prefill = [(batch, length, 0) for length in sorted({max(chunk // 2, 2), chunk})]
        if prompt > chunk:
            prefill.append((batch, chunk, prompt - chunk))
        return Grid(tuple((batch, 1, past) for past in decode), tuple(prefill))

    @staticmethod
    def wide(context: int) -> "Grid":
        """Contexts, lengths and batches for any workload of up to `context` tokens."""
        first, middle, last = (max(context * part // 8, 4) for part in (1, 4, 7))
        decode = ((1, 1, first), (1, 1, last), (4, 1, first), (4, 1, last), (8, 1, middle))
        lengths = sorted({max(min(x, context - 1), 2) for x in (16, 64, PREFILL_CHUNK)})
        prefill = [(batch, x, 0) for x in lengths[:2] for batch in (1, 4)]
        prefill += [(1, x, past) for x in lengths[2:] for past in sorted({0, context - 1 - x})]
        return Grid(tuple(dict.fromkeys(decode)), tuple(prefill), repeats=5)


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
        found: dict[str, dict[Shape, float]] = {name: {} for name in self.names}
        for shape in shapes:
            self.on_progress(f"{scheme}: layers {start}-{end - 1}")
            self._rounds(shape, WARM_UP)
            rounds = self._rounds(shape, self.grid.repeats)
            for name in self.names:
                found[name][shape] = median(row[name] for row in rounds)
        return {name: _Run(found[name], weight_bytes[name]) for name in self.names}

    def _rounds(self, shape: Shape, most: int) -> list[dict[str, float]]:
        """Seconds of a step on every device, one device after the other: round by round until all
        medians are known, or until that has taken long."""
        rounds: list[dict[str, float]] = []
        spent = 0.0
        while len(rounds) < most and spent < LONG_SECONDS:
            rounds.append({})
            for name in self.names:
                time.sleep(PAUSE_SECONDS)
                message = self.devices.call(name, "time", {"shape": shape}, "timed", TIME_SECONDS)
                rounds[-1][name] = float(message.body["seconds"])
            spent += sum(rounds[-1].values())
            if all(is_known([row[name] for row in rounds]) for name in self.names):
                break
        return rounds


def is_known(seconds: Sequence[float]) -> bool:
    """Whether the median is known to PRECISION. Of n normal numbers its standard error is
    sqrt(pi / 2) sigma / sqrt(n), and their quartiles are 1.349 sigma apart."""
    if len(seconds) < LEAST_REPEATS:
        return False
    low, middle, high = quantiles(seconds, n=4)
    error = math.sqrt(math.pi / 2) * (high - low) / 1.349 / math.sqrt(len(seconds))
    return error <= PRECISION * middle


@dataclass(frozen=True, slots=True)
class _Run:
    """Median seconds of some layers per shape, and the bytes that their weights take."""

    seconds: dict[Shape, float]
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
    links = measure_links(devices, on_progress)
    return Profile(spec.digest, tuple(layers), readings, links, tuple(memory))


def step_and_block(
    one: Mapping[Shape, float], several: Mapping[Shape, float], blocks: int, grid: Grid
) -> tuple[float, dict[Shape, float]]:
    """Seconds that a step costs besides its layers, and that a block takes per shape, from steps
    through one block and, decoding, through `blocks` of them: step + n block. On a busy machine
    several may seem quicker than one, or a prompt quicker than a token: neither is believed."""
    first = grid.decode[0]
    found = {
        shape: max((seconds - one[shape]) / (blocks - 1), LEAST_SHARE * one[shape])
        if blocks > 1
        else seconds
        for shape, seconds in several.items()
        if shape in grid.decode
    }
    step = max(one[first] - found[first], 0.0)
    return step, found | {x: max(one[x] - step, found[first]) for x in grid.prefill}


def _time_scheme(
    bench: _Bench, spec: ModelSpec, scheme: str, kinds: dict[str, str]
) -> list[tuple[str, float, list[LayerTiming], list[LayerMemory]]]:
    """Per kind of device: seconds of a step, the timings of each kind of layer, and their sizes."""
    alike = SMALL_BLOCK_BYTES // spec.layers[1].weight_bytes(get_scheme(scheme))
    small, blocks = alike > 0, min(max(alike, 2), MOST_BLOCKS, spec.num_blocks)
    beside = 1 if small else 0
    grid, last = bench.grid, spec.num_layers - 1
    embedding = bench.run(scheme, 0, 1 + beside, grid.ends)
    one = bench.run(scheme, 1, 2, (*grid.decode, *grid.prefill))
    several = bench.run(scheme, 1, 1 + blocks, grid.decode) if blocks > 1 else one
    head = bench.run(scheme, last - beside, last + 1, [x for x in grid.ends if x in grid.decode])
    found = []
    for kind, name in kinds.items():
        single = one[name].seconds
        step, slopes = step_and_block(single, several[name].seconds, blocks, grid)
        added = {
            layer: {x: t - (single[x] if small else step) for x, t in run[name].seconds.items()}
            for layer, run in ((LayerKind.EMBEDDING, embedding), (LayerKind.HEAD, head))
        }
        timings = [
            LayerTiming(kind, layer, scheme, *shape, max(seconds, 0.0))
            for layer, times in (added | {LayerKind.BLOCK: slopes}).items()
            for shape, seconds in times.items()
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


def _read(devices: LocalDevices, kind: str, name: str, step: float) -> DeviceReading:
    body = devices.call(name, "describe", {}, "described", TIME_SECONDS).body
    return DeviceReading(kind, step, body["free_bytes"], body["machine"])


def measure_links(
    devices: LocalDevices, on_progress: Progress = lambda what: None
) -> tuple[Link, ...]:
    """Every link that has a way back, and the way from the coordinator into the source's worker."""
    cluster = devices.cluster
    on_progress(f"link into {cluster.source}")
    within = median(_enter(devices) for _ in range(LINK_REPEATS))
    found = [Link(cluster.source, cluster.source, 1 / FASTEST, within / 2)]
    for link in cluster.all_links():
        if cluster.link(link.target, link.source) is None:
            continue
        on_progress(f"link {link.source} -> {link.target}")
        size, (empty, more) = LINK_BYTES, _probes(devices, link, LINK_BYTES)
        while more < LINK_PART_SECONDS and size < MOST_LINK_BYTES:
            size *= 8
            empty, more = _probes(devices, link, size)
        # Without synchronised clocks a round trip cannot be split, so each direction gets half of
        # it; the bandwidth, from the larger message, is the link's own.
        rate = 1 / max(more / size, FASTEST)
        found.append(Link(link.source, link.target, rate, empty / 2))
    return tuple(found)


def _enter(devices: LocalDevices) -> float:
    time.sleep(PAUSE_SECONDS)
    return devices.round_trip(devices.cluster.source)


def _probes(devices: LocalDevices, link: Link, size: int) -> tuple[float, float]:
    """Seconds of an empty round trip over a link, and how many more with so many bytes on the way
    there: by turns, so that what else the machine does weighs on both."""
    empty, more = list[float](), list[float]()
    while len(more) < LEAST_LINK_REPEATS or (
        len(more) < LINK_REPEATS and 2 * sum(empty) + sum(more) < LINK_SECONDS
    ):
        empty.append(_probe(devices, link, 0))
        more.append(_probe(devices, link, size) - empty[-1])
    return median(empty), median(more)


def _probe(devices: LocalDevices, link: Link, size: int) -> float:
    time.sleep(PAUSE_SECONDS)
    body = {"target": link.target, "size": size}
    message = devices.call(link.source, "probe", body, "probed", TIME_SECONDS)
    return float(message.body["seconds"])


def num_measurements(cluster: Cluster, schemes: Sequence[str], grid: Grid) -> int:
    """How many times `measure` reports progress, at most."""
    shapes = 4 * len(grid.decode) + len(grid.prefill) + ENDS
    return len(schemes) * shapes + len(cluster.all_links()) + 1
