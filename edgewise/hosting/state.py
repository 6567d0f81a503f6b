"""What a running cluster looks like to those who ask."""

from collections.abc import Mapping
from dataclasses import dataclass

from edgewise.clusters import Cluster
from edgewise.plans import Plan


@dataclass(frozen=True, slots=True)
class DeviceState:
    """A device, the layers [start, end) of each of its stages, and the bytes that they take."""

    name: str
    memory_bytes: int
    threads: int
    layers: tuple[tuple[int, int], ...] = ()
    used_bytes: int = 0


@dataclass(frozen=True, slots=True)
class Event:
    """Something that happened to the cluster, `seconds` after its start."""

    seconds: float
    text: str


@dataclass(frozen=True, slots=True)
class State:
    """`status` is "serving", or what it is at; `ready`: whether requests are being answered.
    `schemes` are those of the plan's layers, without repetition."""

    model: str
    status: str
    ready: bool
    devices: tuple[DeviceState, ...]
    schemes: tuple[str, ...]
    waiting: int
    running: int
    tokens: int
    events: tuple[Event, ...]


def device_states(
    cluster: Cluster, plan: Plan | None, used_bytes: Mapping[str, int]
) -> tuple[DeviceState, ...]:
    """What every device holds of a plan, None where there is none."""
    states = list[DeviceState]()
    for device in cluster.devices:
        name, stages = device.name, plan.stages if plan is not None else ()
        layers = tuple((x.start, x.end) for x in stages if x.device == name)
        used = used_bytes.get(name, 0) if layers else 0
        states.append(DeviceState(name, device.memory_bytes, device.threads, layers, used))
    return tuple(states)


def described(plan: Plan) -> str:
    """A plan in a line."""
    stages = ", ".join(f"{s.device} {s.start}-{s.end - 1}" for s in plan.stages)
    return f"plan: {stages} in {', '.join(dict.fromkeys(plan.schemes))}"
