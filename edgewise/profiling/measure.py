"""Timing in the pipeline's own rhythm: the devices take turns, each woken by a message after a
pause, as they are when a token travels round. A tight loop flatters them: it finds warm caches and
a core that is awake. For small models that is half of the true time (dev/LOG.md, 2026-11-21).

A step through n blocks takes `step + their layers` seconds. Every class of blocks is timed alone
and some of the model's first blocks together, which tells both apart, for one token each; of a
prompt's step nearly all is the layers'. What an embedding or a head costs is what it adds to a
step; only beside large blocks, whose own noise would drown it, it is timed alone. Neither looks at
cached tokens.
"""

from collections import Counter
from collections.abc import Collection, Hashable, Mapping, Sequence
from dataclasses import dataclass, replace
from statistics import median
from typing import TypeVar

from edgewise.clusters import Cluster
from edgewise.models.checkpoint import open_checkpoint
from edgewise.models.shape import ModelShape
from edgewise.profiles import LayerMemory, LayerTiming, Profile
from edgewise.profiling.bench import PASSES, Bench, Progress, Run, TimedLayers
from edgewise.profiling.grid import ENDS, Grid, Shape
from edgewise.profiling.links import measure_links
from edgewise.profiling.memory import read_memory
from edgewise.runtime.coordinator.workers import Workers
from edgewise.schemes import Family, get_scheme
from edgewise.specs import LayerSpec, ModelSpec

SMALL_BLOCK_BYTES = 2**26  # the cost of a step shows only beside blocks smaller than this
TOGETHER_BYTES, MOST_BLOCKS = 2**28, 32  # timed together: the more, the less noise counts
LEAST_SHARE = 0.01  # of a step with one block that is the block's: less is noise

Times = Mapping[Shape, float]
Block = TypeVar("Block", bound=Hashable)


def measure(
    workers: Workers,
    model: str,
    spec: ModelSpec,
    schemes: Sequence[str],
    grid: Grid,
    on_progress: Progress = lambda what: None,
) -> Profile:
    """Time every class of layers on every kind of device in every scheme, and all links."""
    kinds = dict.fromkeys(device.kind for device in workers.cluster.devices)
    layers = measure_layers(workers, tuple(kinds), model, spec, schemes, grid, on_progress)
    return replace(layers, links=measure_links(workers, on_progress=on_progress))


def measure_layers(
    workers: Workers,
    wanted: Collection[str],
    model: str,
    spec: ModelSpec,
    schemes: Sequence[str],
    grid: Grid,
    on_progress: Progress = lambda what: None,
) -> Profile:
    """Time every class of layers on these kinds of devices in every scheme.

    `model` names the checkpoint whose shape the workers are told; weights are random.
    """
    kinds: dict[str, str] = {}
    for device in workers.cluster.devices:
        if device.kind in wanted:
            kinds.setdefault(device.kind, device.name)
    readings = read_memory(workers)  # before anything is loaded
    shape = ModelShape.of(open_checkpoint(model)).to_json()
    bench = Bench(workers, tuple(kinds.values()), shape, grid, on_progress)
    layers: list[LayerTiming] = []
    memory: list[LayerMemory] = []
    timed: dict[str, list[_Timed]] = {kind: [] for kind in kinds}
    for scheme in schemes:
        by_device = _time_scheme(bench, spec, scheme)
        for kind, name in kinds.items():
            timed[kind].append(by_device[name])
            for layer, seconds in by_device[name].seconds.items():
                held = by_device[name].weight_bytes[layer]
                memory.append(LayerMemory(kind, layer, scheme, held))
                layers += [LayerTiming(kind, layer, scheme, *x, t) for x, t in seconds.items()]
    readings = tuple(
        replace(
            reading,
            step_seconds=median(x.step for x in timed[reading.device]),
            busy_ratio=median(x.busy_ratio for x in timed[reading.device]),
        )
        for reading in readings
        if reading.device in kinds
    )
    return Profile(spec.digest, tuple(layers), readings, (), tuple(memory))


@dataclass(frozen=True, slots=True)
class _Timed:
    """A device, in a scheme: seconds of a step besides its layers, how many times that all takes
    where it never waits, and by class of layers their seconds and the bytes of their weights."""

    step: float
    busy_ratio: float
    seconds: dict[str, Times]
    weight_bytes: dict[str, int]


@dataclass(frozen=True, slots=True)
class _Runs:
    """A device's steps, in a scheme: through the embedding and the head, each with `beside` blocks,
    through each block `alone`, and through the first `count` together."""

    embedding: Run
    alone: Mapping[LayerSpec, Run]
    together: Run
    head: Run

    def taken_apart(
        self,
        layers: Sequence[LayerSpec],
        classes: Sequence[str],
        beside: int,
        count: int,
        grid: Grid,
    ) -> _Timed:
        """What of the steps is whose. `layers` are the model's as the scheme has them in memory."""
        alone = {layer: run.seconds for layer, run in self.alone.items()}
        first = Counter(layers[1 : 1 + count])
        step, blocks = step_and_blocks(alone, self.together.seconds, first, grid)
        seconds, held = dict[str, Times](), dict[str, int]()
        for layer, name in zip(layers, classes, strict=True):
            if layer in blocks:
                seconds[name], held[name] = blocks[layer], self.alone[layer].weight_bytes
                continue
            run, block = (self.head, layers[-2]) if seconds else (self.embedding, layers[1])
            others = alone[block] if beside else dict.fromkeys(run.seconds, step)
            seconds[name] = {x: max(t - others[x], 0.0) for x, t in run.seconds.items()}
            held[name] = run.weight_bytes - beside * self.alone[block].weight_bytes
        return _Timed(step, self.together.busy_ratio, seconds, held)


def _time_scheme(bench: Bench, spec: ModelSpec, scheme: str) -> dict[str, _Timed]:
    """By device."""
    layers, last = [_in_memory(layer, scheme) for layer in spec.layers], spec.num_layers - 1
    each = spec.layers[1].weight_bytes(get_scheme(scheme))
    beside = int(each <= SMALL_BLOCK_BYTES)
    count = min(max(TOGETHER_BYTES // each, 2), MOST_BLOCKS, spec.num_blocks)
    grid = bench.grid
    shapes = (*grid.decode, *grid.prefill)
    embedding = TimedLayers(0, 1 + beside, grid.ends)
    alone = {
        layers[i]: TimedLayers(i, i + 1, shapes)
        for i in range(1, last)
        if layers.index(layers[i]) == i
    }
    together = TimedLayers(1, 1 + count, grid.decode, busy=True)
    head = TimedLayers(last - beside, last + 1, tuple(x for x in grid.ends if x in grid.decode))
    run = bench.run(scheme, (embedding, *alone.values(), together, head))
    named = zip(spec.classes, spec.layers, strict=True)
    names, timed = [grid.extra.timed(name, layer.kind) for name, layer in named], {}
    for name in bench.names:
        blocks = {layer: run[name][part] for layer, part in alone.items()}
        runs = _Runs(run[name][embedding], blocks, run[name][together], run[name][head])
        timed[name] = runs.taken_apart(layers, names, beside, count, grid)
    return timed


def _in_memory(layer: LayerSpec, scheme: str) -> LayerSpec:
    """A layer as a scheme makes it: what a file stores instead matters to one scheme only."""
    stored = layer.concrete(get_scheme(scheme)).family is Family.STORED
    return layer if stored else replace(layer, stored=())


def step_and_blocks(
    alone: Mapping[Block, Times], together: Times, counts: Mapping[Block, int], grid: Grid
) -> tuple[float, dict[Block, Times]]:
    """Seconds that a step costs besides its layers, and that blocks take per shape. Steps through
    each `alone` and, decoding, through `counts` of them `together` take

        alone[c] = step + c        together = step + sum of counts[c] c

    On a busy machine several may seem quicker than one, or a prompt quicker than a token: neither
    is believed."""
    others = sum(counts.values()) - 1
    first = grid.decode[0]
    blocks: dict[Block, dict[Shape, float]] = {block: {} for block in alone}
    for shape in grid.decode:
        excess = sum(count * alone[block][shape] for block, count in counts.items())
        step = (excess - together[shape]) / others if others else 0.0
        for block, seconds in alone.items():
            least = LEAST_SHARE * seconds[shape]
            blocks[block][shape] = max(seconds[shape] - step, least)
    left = (alone[b][x] - seconds for b, times in blocks.items() for x, seconds in times.items())
    step = max(median(left), 0.0)
    for block, seconds in alone.items():
        for shape in grid.prefill:
            blocks[block][shape] = max(seconds[shape] - step, blocks[block][first])
    return step, {**blocks}


def num_measurements(spec: ModelSpec, cluster: Cluster, schemes: Sequence[str], grid: Grid) -> int:
    """How many times `measure` reports progress, at most."""
    blocks = len(set(spec.layers[1:-1]))
    shapes = (3 + blocks) * len(grid.decode) + blocks * len(grid.prefill) + ENDS
    return len(schemes) * shapes * PASSES + len(cluster.all_links()) + 1
