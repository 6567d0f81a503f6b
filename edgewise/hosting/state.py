"""What a running cluster looks like to those who ask."""

from dataclasses import dataclass


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
