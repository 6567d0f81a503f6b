"""A profile: measured seconds of layers on devices, and of bytes on links.

It belongs to a model shape (`ModelSpec.digest`), not to weights. Times of layers are looked up
through regressions (regressions.py), so any batch, length and context can be asked for.
"""

import json
import math
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from edgewise.clusters import Link
from edgewise.errors import ClusterError, ProfileError
from edgewise.regressions import Fit, fit, held_out_error
from edgewise.specs import LayerKind

VERSION = 3

Key = tuple[str, LayerKind, str, bool]


@dataclass(frozen=True, slots=True)
class LayerTiming:
    """Seconds that one layer takes on a kind of device for `tokens` new tokens after `context`
    cached ones, in each of `sequences` sequences."""

    device: str
    kind: LayerKind
    scheme: str
    sequences: int
    tokens: int
    context: int
    seconds: float

    @property
    def key(self) -> Key:
        return (self.device, self.kind, self.scheme, self.tokens == 1)

    @property
    def shape(self) -> tuple[int, int, int]:
        return (self.sequences, self.tokens, self.context)


@dataclass(frozen=True, slots=True)
class DeviceReading:
    """What a step costs a kind of device however many layers it runs (waking up with cold caches),
    its free memory, and what machine it is."""

    device: str
    step_seconds: float
    free_bytes: int = 0
    machine: str = ""


@dataclass(frozen=True, slots=True)
class LayerMemory:
    """Bytes that a loaded layer's weights were found to take on a kind of device."""

    device: str
    kind: LayerKind
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
            key: fit([t.shape for t in found], [t.seconds for t in found], decode=key[-1])
            for key, found in _by_key(self.layers).items()
        }
        object.__setattr__(self, "_fits", fits)
        object.__setattr__(self, "_devices", {found.device: found for found in self.devices})
        object.__setattr__(self, "_links", {(x.source, x.target): x for x in self.links})

    @property
    def schemes(self) -> tuple[str, ...]:
        """The schemes that were measured, in the order in which they were."""
        return tuple(dict.fromkeys(timing.scheme for timing in self.layers))

    def decode_seconds(
        self, device: str, kind: LayerKind, scheme: str, context: int, sequences: int = 1
    ) -> float:
        """Seconds of one layer for one new token after `context` cached ones, per sequence."""
        return self._fit(device, kind, scheme, True).seconds(sequences, 1, context)

    def prefill_seconds(
        self, device: str, kind: LayerKind, scheme: str, tokens: int, sequences: int = 1,
        context: int = 0,
    ) -> float:  # fmt: skip
        """Seconds of one layer for `tokens` tokens of each prompt after `context` others of it."""
        return self._fit(device, kind, scheme, False).seconds(sequences, tokens, context)

    def reading(self, device: str) -> DeviceReading:
        try:
            return self._devices[device]
        except KeyError:
            raise ProfileError(f"profile: device '{device}' was not measured") from None

    def link(self, source: str, target: str) -> Link | None:
        return self._links.get((source, target))

    def held_out_errors(self) -> dict[Key, float]:
        """Mean relative error of each block's regression on shapes it was not fitted to."""
        found = {}
        for key, timings in _by_key(self.layers).items():
            if key[1] is LayerKind.BLOCK and len(timings) > 2:
                shapes, seconds = [t.shape for t in timings], [t.seconds for t in timings]
                errors = held_out_error(shapes, seconds, decode=key[-1])
                found[key] = sum(errors) / len(errors)
        return found

    def _fit(self, device: str, kind: LayerKind, scheme: str, decode: bool) -> Fit:
        try:
            return self._fits[device, kind, scheme, decode]
        except KeyError:
            phase = "decode" if decode else "prefill"
            raise ProfileError(
                f"profile: no {phase} time of {kind} in {scheme} on '{device}'; "
                "measure again with `edgewise profile`"
            ) from None

    def to_json(self) -> str:
        document = {
            "version": VERSION,
            "model": self.model,
            "layers": [asdict(timing) for timing in self.layers],
            "devices": [asdict(reading) for reading in self.devices],
            "links": [asdict(link) for link in self.links],
            "memory": [asdict(found) for found in self.memory],
        }
        return json.dumps(document, indent=1)

    @staticmethod
    def from_json(text: str, where: str = "profile") -> "Profile":
        """Raises ProfileError, which names `where`."""
        try:
            document: Mapping[str, Any] = json.loads(text)
            if document.get("version") != VERSION:
                raise ProfileError(
                    f"{where}: version {document.get('version')}, but this Edgewise reads {VERSION}"
                )
            layers = tuple(LayerTiming(**_typed(entry)) for entry in document["layers"])
            devices = tuple(DeviceReading(**entry) for entry in document["devices"])
            links = tuple(Link(**entry) for entry in document["links"])
            memory = tuple(LayerMemory(**_typed(entry)) for entry in document["memory"])
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


def _typed(entry: Mapping[str, Any]) -> dict[str, Any]:
    return {**entry, "kind": LayerKind(entry["kind"])}


def _check(profile: Profile) -> None:
    for timing in profile.layers:
        least = (1, 1, 0)
        if not all(
            isinstance(size, int) and size >= low
            for size, low in zip(timing.shape, least, strict=True)
        ):
            raise ProfileError(
                f"profile: {timing.kind} on '{timing.device}': sizes must be whole numbers, at "
                f"least {least}, not {timing.shape}"
            )
        if not (math.isfinite(timing.seconds) and timing.seconds >= 0):
            raise ProfileError(
                f"profile: {timing.kind} in {timing.scheme} on '{timing.device}' takes "
                f"{timing.seconds} seconds"
            )
    for reading in profile.devices:
        if not (math.isfinite(reading.step_seconds) and reading.step_seconds >= 0):
            raise ProfileError(
                f"profile: a step on '{reading.device}' takes {reading.step_seconds} seconds"
            )
        if not (isinstance(reading.free_bytes, int) and reading.free_bytes >= 0):
            raise ProfileError(f"profile: '{reading.device}' has {reading.free_bytes!r} bytes free")
    for found in profile.memory:
        if not (isinstance(found.weight_bytes, int) and found.weight_bytes >= 0):
            raise ProfileError(
                f"profile: {found.kind} in {found.scheme} on '{found.device}' takes "
                f"{found.weight_bytes!r} bytes"
            )


def _by_key(layers: Iterable[LayerTiming]) -> dict[Key, list[LayerTiming]]:
    found: dict[Key, list[LayerTiming]] = {}
    for timing in layers:
        found.setdefault(timing.key, []).append(timing)
    return found
