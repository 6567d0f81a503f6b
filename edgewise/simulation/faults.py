"""What goes wrong in a simulation: noise, slow devices, lost devices, links that change.

A fault changes the cluster and the profile; the cost model then answers for the changed ones, so
the simulator, a planner that is asked again and the tables all see the same numbers.
"""

import random
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from itertools import repeat

from edgewise.clusters import Cluster, Device, Link
from edgewise.errors import ClusterError
from edgewise.plans import Plan
from edgewise.profiles import Profile
from edgewise.schemes import get_scheme
from edgewise.specs import ModelSpec

Replan = Callable[[Cluster, Profile], Plan]
"""Makes a plan for what is left of the cluster. May raise Infeasible, which ends the simulation."""


@dataclass(frozen=True, slots=True)
class Jitter:
    """Every computation and message takes a lognormal factor of mean 1 longer; `compute` and
    `links` are the standard deviations of its logarithm.

    Every device and link draws from its own stream, so that a change elsewhere leaves it alone.
    """

    compute: float = 0.0
    links: float = 0.0
    seed: int = 0

    def factors(self, name: str, *, link: bool) -> Iterator[float]:
        """The factors of one device or link, without end."""
        sigma = self.links if link else self.compute
        if sigma == 0:
            return repeat(1.0)
        stream = random.Random(f"{self.seed}:{name}")
        return (stream.lognormvariate(-sigma * sigma / 2, sigma) for _ in repeat(None))


@dataclass(frozen=True, slots=True)
class Slowdown:
    """From `at_seconds` a device takes `factor` times its profiled seconds; 1 restores it. What it
    is just computing keeps its time."""

    device: str
    at_seconds: float
    factor: float

    def __post_init__(self) -> None:
        if not 0 < self.factor < float("inf"):
            raise ClusterError(f"device '{self.device}' cannot become {self.factor} times slower")


@dataclass(frozen=True, slots=True)
class Leave:
    """A device is gone, with the weights and caches that it held."""

    device: str
    at_seconds: float


@dataclass(frozen=True, slots=True)
class Join:
    """A device of the cluster is there from now on. Before, unless it left first, it was not."""

    device: str
    at_seconds: float


@dataclass(frozen=True, slots=True)
class LinkChange:
    """From `at_seconds` two devices are connected by `link` instead of what they had."""

    link: Link
    at_seconds: float


Fault = Slowdown | Leave | Join | LinkChange


@dataclass(frozen=True, slots=True)
class Recovery:
    """What it costs to go over to another plan: `notice_seconds` until someone asks for one, then
    every device loads the weights it lacks, at the same time, at `load_bytes_per_second`.

    Nothing is computed meanwhile. Caches are not moved: every unfinished request prefills its
    prompt and the tokens it already has.
    """

    notice_seconds: float = 0.0
    load_bytes_per_second: float = 1e9

    def load_seconds(
        self, model: ModelSpec, old: Plan, new: Plan, lost: frozenset[str]
    ) -> dict[str, float]:
        """How long each device of the new plan loads; `lost` devices hold nothing any more."""
        held = {placed for placed in _placed(old) if placed[0] not in lost}
        seconds = dict.fromkeys(new.devices, 0.0)
        for device, layer, scheme in _placed(new):
            if (device, layer, scheme) not in held:
                count = model.layers[layer].weight_bytes(get_scheme(scheme))
                seconds[device] += count / self.load_bytes_per_second
        return seconds


def _placed(plan: Plan) -> Iterator[tuple[str, int, str]]:
    for stage in plan.stages:
        for layer, scheme in zip(range(stage.start, stage.end), stage.schemes, strict=True):
            yield stage.device, layer, scheme


@dataclass(frozen=True)
class World:
    """A cluster and its profile as faults have left them. `cluster` still knows absent devices;
    `present` does not."""

    base_cluster: Cluster
    base_profile: Profile
    absent: frozenset[str] = frozenset()
    slowed: Mapping[str, float] = field(default_factory=dict)
    changed: Mapping[tuple[str, str], Link] = field(default_factory=dict)

    @staticmethod
    def before(faults: tuple[Fault, ...], cluster: Cluster, profile: Profile) -> "World":
        """Where a run with these faults begins: without the devices that join. Raises ClusterError
        for unknown devices, and where the source would leave."""
        first: dict[str, Fault] = {}
        for fault in sorted(faults, key=lambda fault: fault.at_seconds):
            if isinstance(fault, LinkChange):
                cluster.device(fault.link.source), cluster.device(fault.link.target)
            else:
                cluster.device(fault.device)
            if isinstance(fault, Leave | Join):
                if fault.device == cluster.source:
                    raise ClusterError(f"the source '{fault.device}' cannot leave or join")
                first.setdefault(fault.device, fault)
        joining = frozenset(name for name, fault in first.items() if isinstance(fault, Join))
        return World(cluster, profile, joining)

    def after(self, fault: Fault) -> "World":
        match fault:
            case Leave(device=name):
                return replace(self, absent=self.absent | {name})
            case Join(device=name):
                return replace(self, absent=self.absent - {name})
            case Slowdown(device=name, factor=factor):
                return replace(self, slowed={**self.slowed, name: factor})
            case LinkChange(link=link):
                return replace(self, changed={**self.changed, (link.source, link.target): link})

    def cluster(self) -> Cluster:
        """Every device, also the absent ones; a slowed device is a kind of its own."""
        base = self.base_cluster
        devices = tuple(
            replace(device, kind=_slow_kind(device, self.slowed[device.name]))
            if device.name in self.slowed
            else device
            for device in base.devices
        )
        kept = [link for link in base.links if (link.source, link.target) not in self.changed]
        return Cluster(devices, (*kept, *self.changed.values()), base.source, base.networks)

    def present(self) -> Cluster:
        """The devices that are there, and what connects them."""
        whole, gone = self.cluster(), self.absent
        devices = tuple(device for device in whole.devices if device.name not in gone)
        links = tuple(link for link in whole.links if not {link.source, link.target} & gone)
        networks = tuple(
            replace(network, devices=tuple(name for name in network.devices if name not in gone))
            for network in whole.networks
        )
        return Cluster(devices, links, whole.source, networks)

    def profile(self) -> Profile:
        """With slowed devices as kinds, and without measurements of links that changed."""
        base = self.base_profile
        if not self.slowed and not self.changed:
            return base
        layers, readings = list(base.layers), list(base.devices)
        for kind, slow, factor in sorted(self._slow_kinds()):
            layers += [
                replace(timing, device=slow, seconds=timing.seconds * factor)
                for timing in base.layers
                if timing.device == kind
            ]
            reading = base.reading(kind)
            step = reading.step_seconds * factor
            readings.append(replace(reading, device=slow, step_seconds=step))
        links = [link for link in base.links if (link.source, link.target) not in self.changed]
        return Profile(base.model, tuple(layers), tuple(readings), tuple(links))

    def _slow_kinds(self) -> set[tuple[str, str, float]]:
        slowed = ((self.base_cluster.device(name), factor) for name, factor in self.slowed.items())
        return {(device.kind, _slow_kind(device, factor), factor) for device, factor in slowed}


def _slow_kind(device: Device, factor: float) -> str:
    return f"{device.kind} slowed {factor!r} times"
