"""Cluster files: TOML in, `Cluster` out. Unknown keys are errors (docs/clusters.md)."""

import math
import tomllib
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from edgewise import units
from edgewise.clusters import Cluster, Device, Link, Network
from edgewise.errors import ClusterError

_DEVICE_KEYS = ("name", "memory", "threads", "slowdown", "processor", "interface", "disk", "count")
_LINK_KEYS = ("from", "to", "between", "bandwidth", "latency")
_NETWORK_KEYS = ("devices", "bandwidth", "latency")
MAX_COUNT = 10_000


def load_cluster(path: Path) -> Cluster:
    """Read a cluster file. Raises ClusterError naming the file, the key and the reason."""
    try:
        table = tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ClusterError(f"cannot read cluster file {path}: {error.strerror}") from None
    except (ValueError, RecursionError) as error:  # of TOML, of UTF-8, of a number's length
        raise ClusterError(f"{path}: not valid TOML: {error}") from None
    try:
        return _cluster(table)
    except (ClusterError, ValueError) as error:
        raise ClusterError(f"{path}: {error}") from None


def _only(table: Mapping[str, Any], known: tuple[str, ...], where: str) -> None:
    if not isinstance(table, dict):
        raise ClusterError(f"{where} must be a table")
    if unknown := [key for key in table if key not in known]:
        raise ClusterError(f"{where}: unknown key '{unknown[0]}'; known keys: {', '.join(known)}")


def _cluster(table: Mapping[str, Any]) -> Cluster:
    _only(table, ("source", "device", "link", "network"), "the file")
    for key in ("device", "link", "network"):
        if not isinstance(table.get(key, []), list):
            raise ClusterError(f"'{key}' must be a list: write [[{key}]], with double brackets")
    if not table.get("device"):
        raise ClusterError("no [[device]] is given; a cluster needs at least one")
    if "source" not in table:
        raise ClusterError("key 'source' is missing: name the device where prompts arrive")
    _typed(table, {"source": str}, "the file")
    devices = tuple(
        device for i, entry in enumerate(table["device"], start=1) for device in _devices(entry, i)
    )
    links = tuple(
        link for i, entry in enumerate(table.get("link", ()), start=1) for link in _links(entry, i)
    )
    networks = tuple(
        _network(entry, i, devices) for i, entry in enumerate(table.get("network", ()), start=1)
    )
    return Cluster(devices, links, table["source"], networks)


def _devices(entry: Mapping[str, Any], number: int) -> list[Device]:
    where = f"device {number}"
    _only(entry, _DEVICE_KEYS, where)
    if missing := [key for key in ("name", "memory") if key not in entry]:
        raise ClusterError(f"{where}: key '{missing[0]}' is missing")
    optional = {key: entry[key] for key in ("threads", "slowdown", "processor") if key in entry}
    _typed(optional, {"threads": int, "slowdown": (int, float), "processor": str}, where)
    others = {"name": str, "memory": (int, str), "interface": str, "disk": str, "count": int}
    _typed(entry, others, where)
    try:
        memory = units.parse_bytes(entry["memory"])
    except ValueError as error:
        raise ClusterError(f"{where}: memory {error}") from None
    if "interface" in entry:
        try:
            optional["interface_bytes_per_second"] = units.parse_rate(entry["interface"])
        except ValueError as error:
            raise ClusterError(f"{where}: interface {error}") from None
    if "disk" in entry:
        try:
            optional["disk_bytes_per_second"] = units.parse_disk_rate(entry["disk"])
        except ValueError as error:
            raise ClusterError(f"{where}: disk {error}") from None
    name, count = entry["name"], entry.get("count", 1)
    if not 1 <= count <= MAX_COUNT:
        raise ClusterError(f"{where}: count must be between 1 and {MAX_COUNT}, not {count}")
    if count == 1:
        return [Device(name, memory, **optional)]
    return [Device(f"{name}-{i}", memory, **optional, kind=name) for i in range(1, count + 1)]


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
    rate, latency = _speed(entry, where)
    first, second = ends
    there = Link(first, second, rate, latency)
    return (there, Link(second, first, rate, latency)) if "between" in entry else (there,)


def _speed(entry: Mapping[str, Any], where: str) -> tuple[float, float]:
    try:
        rate = units.parse_rate(entry["bandwidth"]) if "bandwidth" in entry else math.inf
        latency = units.parse_seconds(entry["latency"]) if "latency" in entry else 0.0
    except ValueError as error:
        raise ClusterError(f"{where}: {error}") from None
    return rate, latency


def _network(entry: Mapping[str, Any], number: int, devices: Iterable[Device]) -> Network:
    """Its `devices` are names of devices, or of kinds, which stand for all of their kind."""
    where = f"network {number}"
    _only(entry, _NETWORK_KEYS, where)
    _typed(entry, {"bandwidth": str, "latency": str}, where)
    names = entry.get("devices")
    if not (isinstance(names, list) and all(isinstance(name, str) for name in names)):
        raise ClusterError(f"{where}: key 'devices' must be a list of names")
    members: list[str] = []
    for name in names:
        named = [device.name for device in devices if name in (device.name, device.kind)]
        members += named or [name]
    rate, latency = _speed(entry, where)
    return Network(tuple(members), rate, latency)
