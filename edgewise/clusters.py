"""Devices, what connects them, and the cluster they form. Frozen, torch-free nouns."""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace

from edgewise.errors import ClusterError


@dataclass(frozen=True, slots=True)
class Device:
    """A machine that can run layers.

    Devices of one `kind` are equal: one of them is measured for all. `slowdown` and less memory
    than the machine's own make it an emulated device, for trying things out: every computation then
    takes `slowdown` times as long. All that it sends to others leaves its network interface at no
    more than `interface_bytes_per_second`, and all that it receives from them, at the same time,
    comes in at no more than that. Layers that find no room in its memory may live on its disk,
    which is read at no more than `disk_bytes_per_second`; 0: it has none for them.
    """

    name: str
    memory_bytes: int
    threads: int = 1
    slowdown: float = 1.0
    processor: str = "cpu"
    kind: str = ""
    interface_bytes_per_second: float = math.inf
    disk_bytes_per_second: float = 0.0

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
        if not self.interface_bytes_per_second > 0:
            rate = self.interface_bytes_per_second
            raise ClusterError(f"{what}: interface must be faster than 0 bps, not {rate * 8:g} bps")
        disk = self.disk_bytes_per_second
        if not (math.isfinite(disk) and disk >= 0):
            raise ClusterError(f"{what}: disk must be read at 0 or more bytes a second, not {disk}")
        if disk and self.processor != "cpu":
            raise ClusterError(f"{what}: only processor 'cpu' computes layers from disk")
        if not self.kind:
            object.__setattr__(self, "kind", self.name)


def _check_rate(what: str, bytes_per_second: float, latency_seconds: float) -> None:
    if not bytes_per_second > 0:
        raise ClusterError(f"{what}: bandwidth must be positive")
    if not (math.isfinite(latency_seconds) and latency_seconds >= 0):
        raise ClusterError(f"{what}: latency must be zero or more")


@dataclass(frozen=True, slots=True)
class Link:
    """One directed connection: bytes occupy it one after the other, at `bytes_per_second`, and
    arrive `latency_seconds` after they left. While some are under way others may leave. On the
    embedded engine its figures are emulated. A device's link to itself is the way from the
    coordinator into its worker.
    """

    source: str
    target: str
    bytes_per_second: float = math.inf
    latency_seconds: float = 0.0

    def __post_init__(self) -> None:
        what = f"link {self.source} -> {self.target}"
        _check_rate(what, self.bytes_per_second, self.latency_seconds)

    def occupancy_seconds(self, count: int) -> float:
        """How long `count` bytes keep the link from sending others."""
        return count / self.bytes_per_second

    def seconds(self, count: int) -> float:
        """Time for `count` bytes to arrive where the link is free."""
        return self.occupancy_seconds(count) + self.latency_seconds


@dataclass(frozen=True, slots=True)
class Network:
    """Devices that all reach each other at the same rate: a switch, a wireless network."""

    devices: tuple[str, ...]
    bytes_per_second: float = math.inf
    latency_seconds: float = 0.0

    def __post_init__(self) -> None:
        what = f"network of {', '.join(self.devices[:3])}"
        _check_rate(what, self.bytes_per_second, self.latency_seconds)


@dataclass(frozen=True)
class Cluster:
    """Devices, what connects them, and which device is the source: where prompts arrive.

    Two devices use the link given for them, else the first network that both are in.
    """

    devices: tuple[Device, ...]
    links: tuple[Link, ...]
    source: str
    networks: tuple[Network, ...] = ()
    _by_name: Mapping[str, Device] = field(init=False, repr=False, compare=False)
    _by_ends: Mapping[tuple[str, str], Link] = field(init=False, repr=False, compare=False)
    _members: tuple[frozenset[str], ...] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        if not self.devices:
            raise ClusterError("a cluster needs at least one device")
        by_name = {device.name: device for device in self.devices}
        if len(by_name) < len(self.devices):
            names = [device.name for device in self.devices]
            twice = next(name for name in names if names.count(name) > 1)
            raise ClusterError(f"two devices are called '{twice}'")
        object.__setattr__(self, "_by_name", by_name)
        if self.source not in by_name:
            raise ClusterError(
                f"the source '{self.source}' is not a device; devices: {self._known()}"
            )
        for link in self.links:
            if link.source == link.target:
                raise ClusterError(f"a link leads from '{link.source}' to itself")
            self._check_ends(f"link {link.source} -> {link.target}", (link.source, link.target))
        for network in self.networks:
            self._check_ends("a network", network.devices)
        by_ends = {(link.source, link.target): link for link in self.links}
        if len(by_ends) < len(self.links):
            ends = [(link.source, link.target) for link in self.links]
            a, b = next(pair for pair in ends if ends.count(pair) > 1)
            raise ClusterError(f"link {a} -> {b} is given twice")
        object.__setattr__(self, "_by_ends", by_ends)
        members = tuple(frozenset(network.devices) for network in self.networks)
        object.__setattr__(self, "_members", members)

    def _known(self) -> str:
        names = list(self._by_name)
        return ", ".join(names[:20]) + (", ..." if len(names) > 20 else "")

    def _check_ends(self, what: str, ends: tuple[str, ...]) -> None:
        for end in ends:
            if end not in self._by_name:
                raise ClusterError(f"{what}: unknown device '{end}'; devices: {self._known()}")

    def device(self, name: str) -> Device:
        try:
            return self._by_name[name]
        except KeyError:
            raise ClusterError(f"unknown device '{name}'; devices: {self._known()}") from None

    def link(self, source: str, target: str) -> Link | None:
        """What connects two devices, as fast as their interfaces allow; None where nothing does. A
        device reaches itself for free."""
        link = self._by_ends.get((source, target))
        if source == target:
            return link or Link(source, target)
        if link is not None:
            return self.within_interfaces(link)
        for network, members in zip(self.networks, self._members, strict=True):
            if source in members and target in members:
                rate, latency = network.bytes_per_second, network.latency_seconds
                return self.within_interfaces(Link(source, target, rate, latency))
        return None

    def within_interfaces(self, link: Link) -> Link:
        """A link between two devices, no faster than their interfaces."""
        ends = self.device(link.source), self.device(link.target)
        slowest = min(end.interface_bytes_per_second for end in ends)
        if link.source == link.target or link.bytes_per_second <= slowest:
            return link
        return replace(link, bytes_per_second=slowest)

    def all_links(self) -> tuple[Link, ...]:
        """Every directed connection between two devices, those of networks included."""
        names = [device.name for device in self.devices]
        pairs = ((a, b) for a in names for b in names if a != b)
        return tuple(link for a, b in pairs if (link := self.link(a, b)) is not None)

    def unreachable(self) -> list[str]:
        """Devices that no path of links leads to from the source."""
        reached, edge = {self.source}, [self.source]
        rest = [device.name for device in self.devices if device.name != self.source]
        while edge:
            a = edge.pop()
            reachable = [b for b in rest if b not in reached and self.link(a, b) is not None]
            reached.update(reachable)
            edge.extend(reachable)
        return [name for name in rest if name not in reached]

    def without(self, name: str) -> "Cluster":
        """The other devices and what connects them. Raises ClusterError for the source."""
        devices = tuple(device for device in self.devices if device.name != name)
        links = tuple(link for link in self.links if name not in (link.source, link.target))
        networks = tuple(
            replace(network, devices=tuple(x for x in network.devices if x != name))
            for network in self.networks
        )
        return Cluster(devices, links, self.source, networks)

    def linked_by(self, links: Iterable[Link]) -> "Cluster":
        """With these links alone, of which those that lead to other devices are left out."""
        ends = self._by_name.keys()
        own = (x for x in links if x.source != x.target and {x.source, x.target} <= ends)
        return Cluster(self.devices, tuple(own), self.source)

    @property
    def has_disks(self) -> bool:
        """Whether layers may live on the disk of some device."""
        return any(device.disk_bytes_per_second for device in self.devices)

    def without_disks(self) -> "Cluster":
        """The same where layers live in memory only."""
        devices = tuple(replace(device, disk_bytes_per_second=0.0) for device in self.devices)
        return Cluster(devices, self.links, self.source, self.networks)

    def joined_by(self, device: Device) -> "Cluster":
        """With one device more, that reaches all others. Raises ClusterError where its name is
        taken."""
        devices = (*self.devices, device)
        network = Network(tuple(x.name for x in devices))
        return Cluster(devices, self.links, self.source, (*self.networks, network))

    @staticmethod
    def of_this_machine(memory_bytes: int, threads: int) -> "Cluster":
        """A cluster of one device, this machine."""
        return Cluster((Device("local", memory_bytes, threads),), (), "local")


def fair_share(caps: Sequence[int], free: int) -> int:
    """The most that each of several devices may take of `free` bytes they have in common: those
    whose caps are lower take those, and the others share the rest evenly."""
    left = free
    for number, cap in enumerate(sorted(caps)):
        share = left // (len(caps) - number)
        if cap > share:
            return share
        left -= cap
    return max(caps)
