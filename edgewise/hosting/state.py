"""What a running cluster looks like to those who ask."""

from collections.abc import Iterable
from dataclasses import dataclass

from edgewise.clusters import Cluster, Device, Link
from edgewise.planning import PlanResult
from edgewise.plans import Plan
from edgewise.runtime.stats import Finished, Stats
from edgewise.schemes import get_scheme
from edgewise.specs import ModelSpec


@dataclass(frozen=True, slots=True)
class DeviceState:
    """A device, the layers [start, end) of each of its stages, and the bytes that they take.
    `lost`: it held layers, or could have, and has not come back."""

    name: str
    memory_bytes: int
    threads: int
    lost: bool = False
    layers: tuple[tuple[int, int], ...] = ()
    used_bytes: int = 0


@dataclass(frozen=True, slots=True)
class StageState:
    """A stage of the plan in use: the bits per weight of each of its layers, and the seconds that
    it computed, and waited while there was something in the pipeline, since the plan is in use."""

    device: str
    start: int
    end: int
    bits: tuple[float, ...]
    busy_seconds: float
    waiting_seconds: float


@dataclass(frozen=True, slots=True)
class LinkState:
    """A link as measured (`bytes_per_second` None: no limit), and what the plan has sent by it."""

    source: str
    target: str
    bytes_per_second: float | None
    latency_seconds: float
    sent_bytes: int


@dataclass(frozen=True, slots=True)
class Event:
    """Something that happened to the cluster, `seconds` after its start."""

    seconds: float
    text: str


@dataclass(frozen=True, slots=True)
class State:
    """`status` is "serving", or what it is at; `ready`: whether requests are being answered.
    `schemes` are those of the plan's layers, without repetition; `predicted_seconds` of a token and
    `explanation` are the planner's. `join`: what to run on another machine to lend it, "" where
    nobody can join. Times are seconds; of a token, the median of the last thousand."""

    model: str
    status: str
    ready: bool
    uptime_seconds: float
    devices: tuple[DeviceState, ...]
    links: tuple[LinkState, ...]
    stages: tuple[StageState, ...]
    schemes: tuple[str, ...]
    predicted_seconds: float | None
    explanation: tuple[str, ...]
    waiting: int
    running: int
    tokens: int
    tokens_per_second: float
    first_token_seconds: float | None
    token_seconds: float | None
    requests: tuple[Finished, ...]
    events: tuple[Event, ...]
    join: str = ""


def device_states(
    cluster: Cluster, lost: Iterable[Device], plan: Plan | None, stats: Stats | None
) -> tuple[DeviceState, ...]:
    """What every device holds of a plan, None where there is none; those that are lost last."""
    used_bytes = stats.memory_bytes if stats is not None else {}
    states = list[DeviceState]()
    for device in cluster.devices:
        name, stages = device.name, plan.stages if plan is not None else ()
        layers = tuple((x.start, x.end) for x in stages if x.device == name)
        used = used_bytes.get(name, 0) if layers else 0
        states.append(DeviceState(name, device.memory_bytes, device.threads, False, layers, used))
    gone = (DeviceState(x.name, x.memory_bytes, x.threads, lost=True) for x in lost)
    return (*states, *gone)


def stage_states(spec: ModelSpec, plan: Plan | None, stats: Stats | None) -> tuple[StageState, ...]:
    if plan is None or stats is None:
        return ()
    times = {(x.device, x.start): (x.busy_seconds, x.waiting_seconds) for x in stats.stages}
    states = list[StageState]()
    for stage in plan.stages:
        bits = tuple(
            bits_per_weight(spec, stage.start + number, scheme)
            for number, scheme in enumerate(stage.schemes)
        )
        busy, waiting = times.get((stage.device, stage.start), (0.0, 0.0))
        states.append(StageState(stage.device, stage.start, stage.end, bits, busy, waiting))
    return tuple(states)


def bits_per_weight(spec: ModelSpec, layer: int, scheme: str) -> float:
    """Scales included; 0 of a layer without weights of its own."""
    shape = spec.layers[layer]
    weights = sum(rows * columns for rows, columns in shape.matrices)
    return round(8 * shape.weight_bytes(get_scheme(scheme)) / weights, 2) if weights else 0.0


def link_states(links: Iterable[Link], stats: Stats | None) -> tuple[LinkState, ...]:
    sent = {(x.source, x.target): x.bytes for x in stats.links} if stats is not None else {}
    return tuple(
        LinkState(
            x.source,
            x.target,
            None if x.bytes_per_second == float("inf") else x.bytes_per_second,
            x.latency_seconds,
            sent.get((x.source, x.target), 0),
        )
        for x in links
        if x.source != x.target
    )


def reasons(chosen: PlanResult) -> tuple[str, ...]:
    """The planner's, a sentence each."""
    return tuple(x for x in chosen.explanation.split("; ") if x)
