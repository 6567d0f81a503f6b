"""A profile: measured seconds of layers on devices, and of bytes on links.

It belongs to a model shape (`ModelSpec.digest`), not to weights. Equal layers are measured once:
`layer` is the name of a shape class (`ModelSpec.classes`). Times are looked up through regressions
(regressions.py), so any batch, length and context can be asked for.
"""

import json
import math
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from edgewise.clusters import Link
from edgewise.errors import ClusterError, ProfileError
from edgewise.regressions import Fit, fit

VERSION = 4

UNKNOWN = 0.1  # share of the layers' seconds whose error need not be known

Key = tuple[str, str, str, bool]  # device, class of layer, scheme, decoding


@dataclass(frozen=True, slots=True)
class LayerTiming:
    """Seconds that one layer takes on a kind of device for `tokens` new tokens after `context`
    cached ones, in each of `sequences` sequences."""

    device: str
    layer: str
    scheme: str
    sequences: int
    tokens: int
    context: int
    seconds: float

    @property
    def key(self) -> Key:
        return (self.device, self.layer, self.scheme, self.tokens == 1)

    @property
    def shape(self) -> tuple[int, int, int]:
        return (self.sequences, self.tokens, self.context)


@dataclass(frozen=True, slots=True)
class DeviceReading:
    """What a step costs a kind of device however many layers it runs (waking up with cold caches),
    what its machine has free without any worker, 0 where nobody knows, which machine that is, and
    what a worker takes of it before it loads anything: the interpreter, torch. Where it never waits
    for its next step, nor do others, decoding takes `busy_ratio` times what it takes after a pause.
    Its disk is read past the page cache at `disk_bytes_per_second`, 0 where that was not
    measured."""

    device: str
    step_seconds: float
    free_bytes: int = 0
    machine: str = ""
    process_bytes: int = 0
    busy_ratio: float = 1.0
    disk_bytes_per_second: float = 0.0


@dataclass(frozen=True, slots=True)
class LayerMemory:
    """Bytes that a loaded layer's weights were found to take on a kind of device."""

    device: str
    layer: str
    scheme: str
    weight_bytes: int


@dataclass(frozen=True)
class Profile:
    """All measurements of one model shape on one cluster."""

    model: str
    layers: tuple[LayerTiming, ...]
    devices: tuple[DeviceReading, ...]
    links: tuple[Link, ...]
    memory: tuple[LayerMemory, ...] = ()
    _fits: Mapping[Key, Fit] = field(init=False, repr=False, compare=False)
    _devices: Mapping[str, DeviceReading] = field(init=False, repr=False, compare=False)
    _links: Mapping[tuple[str, str], Link] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        _check(self)
        fits = {
            key: fit([x.shape for x in timings], [x.seconds for x in timings], decode=key[-1])
            for key, timings in _by_key(self.layers).items()
        }
        object.__setattr__(self, "_fits", fits)
        object.__setattr__(self, "_devices", {reading.device: reading for reading in self.devices})
        object.__setattr__(self, "_links", {(x.source, x.target): x for x in self.links})

    @property
    def schemes(self) -> tuple[str, ...]:
        """The schemes that were measured, in the order in which they were."""
        return tuple(dict.fromkeys(timing.scheme for timing in self.layers))

    @property
    def classes(self) -> tuple[str, ...]:
        """The classes of layers that were measured, in the order in which they were."""
        return tuple(dict.fromkeys(timing.layer for timing in self.layers))

    def slowed(self, factors: Mapping[str, float]) -> "Profile":
        """The same where kinds of devices take so many times as long."""
        if not factors:
            return self
        layers = tuple(
            replace(x, seconds=x.seconds * factors.get(x.device, 1.0)) for x in self.layers
        )
        devices = tuple(
            replace(x, step_seconds=x.step_seconds * factors.get(x.device, 1.0))
            for x in self.devices
        )
        return replace(self, layers=layers, devices=devices)

    def decode_seconds(
        self, device: str, layer: str, scheme: str, context: int, sequences: int = 1
    ) -> float:
        """Seconds of one layer for one new token after `context` cached ones, per sequence."""
        return self._fit(device, layer, scheme, True).seconds(sequences, 1, context)

    def prefill_seconds(
        self, device: str, layer: str, scheme: str, tokens: int, sequences: int = 1,
        context: int = 0,
    ) -> float:  # fmt: skip
        """Seconds of one layer for `tokens` tokens of each prompt after `context` others of it."""
        return self._fit(device, layer, scheme, False).seconds(sequences, tokens, context)

    def reading(self, device: str) -> DeviceReading:
        try:
            return self._devices[device]
        except KeyError:
            raise ProfileError(f"profile: device '{device}' was not measured") from None

    def link(self, source: str, target: str) -> Link | None:
        return self._links.get((source, target))

    def error(self, key: Key) -> float | None:
        """The relative error to expect of what is looked up; None where it is not known."""
        return self._fit(*key).error

    def expected_error(self, seconds: Mapping[Key, float], whole: float) -> float | None:
        """The relative error to expect of `whole` seconds, of which layers take these. Those of one
        key err alike, so their errors add up; those of others do so as squares. A layer whose error
        is not known may be off by all it takes; None where such layers take more than a tenth."""
        known = {key: self.error(key) for key in seconds}
        layers = sum(seconds.values())
        if sum(seconds[key] for key, error in known.items() if error is None) > layers * UNKNOWN:
            return None
        off = (seconds[key] * (1.0 if error is None else error) for key, error in known.items())
        return math.hypot(*off) / max(layers, whole) if layers else 0.0

    @property
    def errors(self) -> dict[Key, float]:
        """All that are known."""
        return {key: fit.error for key, fit in self._fits.items() if fit.error is not None}

    def _fit(self, device: str, layer: str, scheme: str, decode: bool) -> Fit:
        try:
            return self._fits[device, layer, scheme, decode]
        except KeyError:
            phase = "decode" if decode else "prefill"
            raise ProfileError(
                f"profile: no {phase} time of {layer} in {scheme} on '{device}'; "
                "measure again with `edgewise profile`"
            ) from None

    def with_free_memory(self, machine: str, free_bytes: int) -> "Profile":
        """The same where that machine has so much memory free now."""
        devices = tuple(
            replace(x, free_bytes=free_bytes) if x.machine == machine else x for x in self.devices
        )
        return replace(self, devices=devices)

    def to_json(self) -> str:
        document = {
            "version": VERSION,
            "model": self.model,
            "layers": [asdict(timing) for timing in self.layers],
            "devices": [asdict(reading) for reading in self.devices],
            "links": [asdict(link) for link in self.links],
            "memory": [asdict(size) for size in self.memory],
        }
        return json.dumps(document, indent=1)

    @staticmethod
    def from_json(text: str, where: str = "profile") -> "Profile":
        """Raises ProfileError, which names `where`."""
        try:
            document: Mapping[str, Any] = json.loads(text)
            if document.get("version") != VERSION:
                raise ProfileError(
                    f"{where}: version {document.get('version')}, but this Edgewise reads "
                    f"{VERSION}; measure again with `edgewise profile`"
                )
            layers = tuple(LayerTiming(**entry) for entry in document["layers"])
            devices = tuple(DeviceReading(**entry) for entry in document["devices"])
            links = tuple(Link(**entry) for entry in document["links"])
            memory = tuple(LayerMemory(**entry) for entry in document["memory"])
            return Profile(document["model"], layers, devices, links, memory)
        except (KeyError, TypeError, ValueError, AttributeError, RecursionError) as error:
            raise ProfileError(f"{where}: not a profile: {error!r}") from None
        except ClusterError as error:
            raise ProfileError(f"{where}: {error}") from None
        except ProfileError as error:
            raise ProfileError(str(error).replace("profile: ", f"{where}: ", 1)) from None

    @staticmethod
    def load(path: Path) -> "Profile":
        try:
            return Profile.from_json(path.read_text(encoding="utf-8"), str(path))
        except OSError as error:
            raise ProfileError(f"cannot read profile {path}: {error.strerror}") from None
        except UnicodeDecodeError:
            raise ProfileError(f"{path}: not a profile: not UTF-8 text") from None


def _check(profile: Profile) -> None:
    for timing in profile.layers:
        least = (1, 1, 0)
        if not all(
            isinstance(size, int) and size >= low
            for size, low in zip(timing.shape, least, strict=True)
        ):
            raise ProfileError(
                f"profile: {timing.layer} on '{timing.device}': sizes must be whole numbers, at "
                f"least {least}, not {timing.shape}"
            )
        if not (math.isfinite(timing.seconds) and timing.seconds >= 0):
            raise ProfileError(
                f"profile: {timing.layer} in {timing.scheme} on '{timing.device}' takes "
                f"{timing.seconds} seconds"
            )
    for reading in profile.devices:
        if not (math.isfinite(reading.step_seconds) and reading.step_seconds >= 0):
            raise ProfileError(
                f"profile: a step on '{reading.device}' takes {reading.step_seconds} seconds"
            )
        if not 0 < reading.busy_ratio < math.inf:
            raise ProfileError(
                f"profile: '{reading.device}' takes {reading.busy_ratio} of its time when it never "
                "waits, not a number above 0"
            )
        disk = reading.disk_bytes_per_second
        if not (math.isfinite(disk) and disk >= 0):
            raise ProfileError(f"profile: the disk of '{reading.device}' gives {disk} bytes/s")
        for count in (reading.free_bytes, reading.process_bytes):
            if not (isinstance(count, int) and count >= 0):
                raise ProfileError(
                    f"profile: '{reading.device}' has {reading.free_bytes!r} bytes free, of which "
                    f"a worker takes {reading.process_bytes!r}"
                )
    for size in profile.memory:
        if not (isinstance(size.weight_bytes, int) and size.weight_bytes >= 0):
            raise ProfileError(
                f"profile: {size.layer} in {size.scheme} on '{size.device}' takes "
                f"{size.weight_bytes!r} bytes"
            )


def _by_key(layers: Iterable[LayerTiming]) -> dict[Key, list[LayerTiming]]:
    timings: dict[Key, list[LayerTiming]] = {}
    for timing in layers:
        timings.setdefault(timing.key, []).append(timing)
    return timings
