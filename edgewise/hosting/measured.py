"""What is known of the devices that there are: seconds of layers, bytes of links. It is measured
when it is asked for first; seconds are kept between runs."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from statistics import median

from edgewise.caches import cache_folder, cache_key, read_cached, write_text_atomically
from edgewise.clusters import Link
from edgewise.profiles import VERSION, DeviceReading, Profile
from edgewise.profiling import Grid, measure_layers, measure_links, read_memory
from edgewise.profiling.bench import TIME_SECONDS
from edgewise.runtime import messages
from edgewise.runtime.coordinator.workers import Workers
from edgewise.specs import ModelSpec


class Measured:
    """Of the workers' devices, for one model. Every method that measures waits, and raises
    DeviceLost; no steps may be under way but where it says so. `say` is told what is measured."""

    def __init__(
        self,
        workers: Workers,
        model: str,
        spec: ModelSpec,
        grid: Grid,
    ) -> None:
        self._workers, self._model, self._spec, self._grid = workers, model, spec, grid
        self.say: Callable[[str], None] = lambda what: None
        self.slow: Mapping[str, float] = {}  # devices that take so many times as long for now
        self._layers: dict[tuple[str, str], Profile] = {}  # by device and scheme
        self._links: dict[tuple[str, str], Link] = {}

    def profile(self, schemes: Iterable[str]) -> Profile:
        """Everything that plans in these schemes need to know of the devices there are now."""
        names = self._workers.names
        self.measure_layers(names, schemes)
        self._measure_links()
        parts = [self._layers[name, scheme] for name in names for scheme in schemes]
        layers = tuple(timing for part in parts for timing in part.layers)
        memory = tuple(size for part in parts for size in part.memory)
        profile = Profile(self._spec.digest, layers, self._readings(parts), self.links, memory)
        return profile.slowed(self.slow)

    def forget(self, device: str) -> None:
        """Of a device that left: another one may come by its name."""
        self._layers = {key: part for key, part in self._layers.items() if key[0] != device}
        self._links = {ends: link for ends, link in self._links.items() if device not in ends}

    def measure_layers(self, devices: Sequence[str], schemes: Iterable[str]) -> None:
        """Of these devices, what is not known. Steps may be under way on others."""
        for scheme in schemes:
            self._measure([x for x in devices if (x, scheme) not in self._layers], scheme)

    def _measure(self, devices: Sequence[str], scheme: str) -> None:
        missing = list[str]()
        for device in devices:
            kept = read_cached(self._file(device, scheme), Profile.load)
            if kept is None:
                missing.append(device)
            else:
                self._layers[device, scheme] = kept
        if not missing:
            return
        self.say(f"measuring {', '.join(missing)} in {scheme}")
        timed = measure_layers(
            self._workers, missing, self._model, self._spec, (scheme,), self._grid
        )
        for device in missing:
            self._layers[device, scheme] = part = _of_device(timed, device)
            write_text_atomically(self._file(device, scheme), part.to_json() + "\n")

    def _measure_links(self) -> None:
        ends = {(a, b) for a in self._workers.names for b in self._workers.names}
        if ends - self._links.keys():
            self.say("measuring links")
        for link in measure_links(self._workers, self._links.keys()):
            self._links[link.source, link.target] = link

    @property
    def links(self) -> tuple[Link, ...]:
        """As measured last, between the devices that there are."""
        names = self._workers.names
        return tuple(x for x in self._links.values() if x.source in names and x.target in names)

    def _readings(self, parts: Sequence[Profile]) -> tuple[DeviceReading, ...]:
        """What is free now, and what steps were found to cost."""
        readings = list[DeviceReading]()
        for reading in read_memory(self._workers):
            known = [x for part in parts for x in part.devices if x.device == reading.device]
            step = median(x.step_seconds for x in known)
            busy = median(x.busy_ratio for x in known)
            readings.append(replace(reading, step_seconds=step, busy_ratio=busy))
        return tuple(readings)

    def _file(self, device: str, scheme: str) -> Path | None:
        """Named by all that a device's seconds depend on: not by its memory, interface or disk."""
        folder = cache_folder("devices")
        said = self._workers.call(device, messages.Describe(), messages.Described, TIME_SECONDS)
        what = self._workers.cluster.device(device)
        what = replace(
            what, memory_bytes=1, interface_bytes_per_second=1.0, disk_bytes_per_second=0.0
        )
        machine = (said.machine, said.code)
        key = cache_key(VERSION, self._spec.digest, scheme, self._grid, what, *machine)
        return folder and folder / f"{key}.json"


def _of_device(profile: Profile, device: str) -> Profile:
    layers = tuple(x for x in profile.layers if x.device == device)
    readings = tuple(x for x in profile.devices if x.device == device)
    memory = tuple(x for x in profile.memory if x.device == device)
    return Profile(profile.model, layers, readings, (), memory)
