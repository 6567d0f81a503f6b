"""What exists: a model's layers, devices, links, a cluster, a workload. Frozen, torch-free nouns.

A model is a chain of layers: 0 = embedding, 1..L = decoder blocks, L+1 = final norm + head. Ranges
of layers are half-open everywhere.
"""

import hashlib
import math
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path
from typing import Any

from edgewise import units
from edgewise.errors import ClusterError
from edgewise.schemes import Scheme

ACTIVATION_BYTES = 4  # hidden states travel between layers as float32
TOKEN_BYTES = 8  # a sampled token id travels as int64


class LayerKind(StrEnum):
    EMBEDDING = "embedding"
    BLOCK = "block"
    HEAD = "head"


@dataclass(frozen=True, slots=True)
class LayerSpec:
    """One layer. `matrices` are (rows, columns) that a scheme stores; `other_weights` counts the
    norms, biases and position tables, which stay in the scheme's compute type."""

    kind: LayerKind
    matrices: tuple[tuple[int, int], ...]
    other_weights: int

    def weight_bytes(self, scheme: Scheme) -> int:
        """Bytes that the layer's weights take in memory."""
        stored = sum(scheme.matrix_bytes(rows, columns) for rows, columns in self.matrices)
        return stored + self.other_weights * scheme.compute_bytes


@dataclass(frozen=True, slots=True)
class ModelSpec:
    """A model's shape. `kv_width` is the number of cached values per token and block. In a `tied`
    model embedding and head share their matrix where one stage holds both."""

    name: str
    layers: tuple[LayerSpec, ...]
    hidden_size: int
    vocab_size: int
    max_context: int
    kv_width: int
    tied: bool

    @property
    def num_layers(self) -> int:
        return len(self.layers)

    @property
    def num_blocks(self) -> int:
        return sum(layer.kind is LayerKind.BLOCK for layer in self.layers)

    @property
    def digest(self) -> str:
        """Identifies the shape, not the name or the weights: plans and profiles belong to it."""
        shape = repr((self.layers, self.hidden_size, self.max_context, self.kv_width, self.tied))
        return hashlib.sha256(shape.encode()).hexdigest()[:16]


@dataclass(frozen=True, slots=True)
class Workload:
    """What a plan must serve: `sequences` at a time, each `prompt_tokens` in, `new_tokens` out."""

    prompt_tokens: int = 128
    new_tokens: int = 64
    sequences: int = 1

    def __post_init__(self) -> None:
        for name in self.__slots__:
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, not {getattr(self, name)}")

    @property
    def context(self) -> int:
        """Tokens a sequence holds at its end: what the cache must have room for."""
        return self.prompt_tokens + self.new_tokens


@dataclass(frozen=True, slots=True)
class Device:
    """A machine that can run layers.

    `slowdown` and a `memory_bytes` below the machine's own make it an emulated device, for trying
    things out: every computation then takes `slowdown` times as long.
    """

    name: str
    memory_bytes: int
    threads: int = 1
    slowdown: float = 1.0
    processor: str = "cpu"

    def __post_init__(self) -> None:
        what = f"device '{self.name}'"
        if not self.name:
            raise ClusterError("a device has no name")
        if self.memory_bytes <= 0:
            raise ClusterError(f"{what}: memory must be positive, not {self.memory_bytes} bytes")
        if self.threads < 1:
            raise ClusterError(f"{what}: threads must be at least 1, not {self.threads}")
        if not (math.isfinite(self.slowdown) and self.slowdown >= 1):
            raise ClusterError(f"{what}: slowdown must be at least 1, not {self.slowdown}")


@dataclass(frozen=True, slots=True)
class Link:
    """One directed connection. Emulated where the cluster file gives figures: none of its devices
    are told apart by the network of the machine they share."""

    source: str
    target: str
    bytes_per_second: float = math.inf
    latency_seconds: float = 0.0

    def __post_init__(self) -> None:
        what = f"link {self.source} -> {self.target}"
        if not self.bytes_per_second > 0:
            raise ClusterError(f"{what}: bandwidth must be positive")
        if not (math.isfinite(self.latency_seconds) and self.latency_seconds >= 0):
            raise ClusterError(f"{what}: latency must be zero or more")

    def seconds(self, count: int) -> float:
        """Time for `count` bytes to arrive."""
        return self.latency_seconds + count / self.bytes_per_second


@dataclass(frozen=True)
class Cluster:
    """Devices, links, and which device is the source: where prompts arrive."""

    devices: tuple[Device, ...]
    links: tuple[Link, ...]
    source: str
    _by_name: Mapping[str, Device] = field(init=False, repr=False, compare=False)
    _by_ends: Mapping[tuple[str, str], Link] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        if not self.devices:
            raise ClusterError("a cluster needs at least one device")
        names = [device.name for device in self.devices]
        if twice := sorted({name for name in names if names.count(name) > 1}):
            raise ClusterError(f"two devices are called '{twice[0]}'")
        if self.source not in names:
            known = ", ".join(names)
            raise ClusterError(f"the source '{self.source}' is not a device; devices: {known}")
        for link in self.links:
            for end in (link.source, link.target):
                if end not in names:
                    known = ", ".join(names)
                    raise ClusterError(
                        f"link {link.source} -> {link.target}: unknown device '{end}'; "
                        f"devices: {known}"
                    )
        object.__setattr__(self, "_by_name", {device.name: device for device in self.devices})
        object.__setattr__(self, "_by_ends", {(x.source, x.target): x for x in self.links})
        if len(self._by_ends) < len(self.links):
            ends = [(x.source, x.target) for x in self.links]
            a, b = next(pair for pair in ends if ends.count(pair) > 1)
            raise ClusterError(f"link {a} -> {b} is given twice")

    def device(self, name: str) -> Device:
        try:
            return self._by_name[name]
        except KeyError:
            known = ", ".join(self._by_name)
            raise ClusterError(f"unknown device '{name}'; devices: {known}") from None

    def link(self, source: str, target: str) -> Link | None:
        """The link between two devices, None where nothing connects them. A device reaches itself
        at no cost."""
        if source == target:
            return self._by_ends.get((source, target), Link(source, target))
        return self._by_ends.get((source, target))

    @staticmethod
    def of_this_machine(memory_bytes: int, threads: int) -> "Cluster":
        """A cluster of one device, this machine."""
        return Cluster((Device("local", memory_bytes, threads),), (), "local")

    @staticmethod
    def from_toml(path: Path) -> "Cluster":
        """Read a cluster file. Raises ClusterError naming the file, the key and the reason."""
        try:
            table = tomllib.loads(path.read_text(encoding="utf-8"))
        except OSError as error:
            raise ClusterError(f"cannot read cluster file {path}: {error.strerror}") from None
        except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
            raise ClusterError(f"{path}: not valid TOML: {error}") from None
        try:
            return _cluster(table)
        except (ClusterError, ValueError) as error:
            raise ClusterError(f"{path}: {error}") from None


_DEVICE_KEYS = ("name", "memory", "threads", "slowdown", "processor")
_LINK_KEYS = ("from", "to", "between", "bandwidth", "latency")


def _only(table: Mapping[str, Any], known: tuple[str, ...], where: str) -> None:
    if not isinstance(table, dict):
        raise ClusterError(f"{where} must be a table")
    if unknown := [key for key in table if key not in known]:
        raise ClusterError(f"{where}: unknown key '{unknown[0]}'; known keys: {', '.join(known)}")


def _cluster(table: Mapping[str, Any]) -> Cluster:
    _only(table, ("source", "device", "link"), "the file")
    if not table.get("device"):
        raise ClusterError("no [[device]] is given; a cluster needs at least one")
    if "source" not in table:
        raise ClusterError("key 'source' is missing: name the device where prompts arrive")
    devices = tuple(_device(entry, i) for i, entry in enumerate(table["device"], start=1))
    links = tuple(
        link for i, entry in enumerate(table.get("link", ()), start=1) for link in _links(entry, i)
    )
    return Cluster(devices, links, table["source"])


def _device(entry: Mapping[str, Any], number: int) -> Device:
    where = f"device {number}"
    _only(entry, _DEVICE_KEYS, where)
    if missing := [key for key in ("name", "memory") if key not in entry]:
        raise ClusterError(f"{where}: key '{missing[0]}' is missing")
    optional = {key: entry[key] for key in ("threads", "slowdown", "processor") if key in entry}
    _typed(optional, {"threads": int, "slowdown": (int, float), "processor": str}, where)
    _typed(entry, {"name": str, "memory": (int, str)}, where)
    try:
        memory = units.parse_bytes(entry["memory"])
    except ValueError as error:
        raise ClusterError(f"{where}: memory {error}") from None
    return Device(entry["name"], memory, **optional)


def _typed(table: Mapping[str, Any], types: Mapping[str, Any], where: str) -> None:
    for key, kind in types.items():
        if key in table and (not isinstance(table[key], kind) or isinstance(table[key], bool)):
            raise ClusterError(f"{where}: key '{key}' has the wrong type: {table[key]!r}")


def _links(entry: Mapping[str, Any], number: int) -> tuple[Link, ...]:
    where = f"link {number}"
    _only(entry, _LINK_KEYS, where)
    _typed(entry, {key: str for key in _LINK_KEYS if key != "between"}, where)
    if ("between" in entry) == ("from" in entry or "to" in entry):
        raise ClusterError(f"{where}: give either 'between' or both 'from' and 'to'")
    ends = entry.get("between", [entry.get("from"), entry.get("to")])
    if not (isinstance(ends, list) and len(ends) == 2 and all(isinstance(e, str) for e in ends)):
        raise ClusterError(f"{where}: a link has two ends, such as between = ['a', 'b']")
    try:
        rate = units.parse_rate(entry["bandwidth"]) if "bandwidth" in entry else math.inf
        latency = units.parse_seconds(entry["latency"]) if "latency" in entry else 0.0
    except ValueError as error:
        raise ClusterError(f"{where}: {error}") from None
    first, second = ends
    there = Link(first, second, rate, latency)
    return (there, Link(second, first, rate, latency)) if "between" in entry else (there,)
