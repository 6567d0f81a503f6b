"""A profile: measured seconds of layers on devices, and of bytes on links.

It belongs to a model shape (`ModelSpec.digest`), not to weights. Look-ups between measured points
are linear; beyond them the last slope goes on.
"""

import json
import math
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from edgewise.errors import ProfileError
from edgewise.specs import LayerKind

VERSION = 1


@dataclass(frozen=True, slots=True)
class LayerTiming:
    """Seconds that one layer takes on a device for `tokens` new tokens after `context` cached."""

    device: str
    kind: LayerKind
    scheme: str
    tokens: int
    context: int
    seconds: float


@dataclass(frozen=True, slots=True)
class LinkTiming:
    """One directed link: n bytes take `latency_seconds + n / bytes_per_second`. A device's link to
    itself is the way from the coordinator into its worker."""

    source: str
    target: str
    latency_seconds: float
    bytes_per_second: float

    def seconds(self, count: int) -> float:
        return self.latency_seconds + count / self.bytes_per_second


@dataclass(frozen=True, slots=True)
class StepTiming:
    """What a step costs a device however many layers it runs: waking up with cold caches."""

    device: str
    seconds: float


@dataclass(frozen=True)
class Profile:
    """All timings of one model shape on one cluster."""

    model: str
    layers: tuple[LayerTiming, ...]
    steps: tuple[StepTiming, ...]
    links: tuple[LinkTiming, ...]
    _points: Mapping[tuple[str, LayerKind, str, bool], tuple[list[float], list[float]]] = field(
        init=False, repr=False, compare=False
    )
    _links: Mapping[tuple[str, str], LinkTiming] = field(init=False, repr=False, compare=False)
    _steps: Mapping[str, float] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        for timing in self.layers:
            if not (math.isfinite(timing.seconds) and timing.seconds >= 0):
                raise ProfileError(
                    f"profile: {timing.kind} in {timing.scheme} on '{timing.device}' takes "
                    f"{timing.seconds} seconds"
                )
        for step in self.steps:
            if not (math.isfinite(step.seconds) and step.seconds >= 0):
                raise ProfileError(
                    f"profile: a step on '{step.device}' takes {step.seconds} seconds"
                )
        for link in self.links:
            if not (math.isfinite(link.latency_seconds) and link.bytes_per_second > 0):
                raise ProfileError(f"profile: link {link.source} -> {link.target} is unusable")
        object.__setattr__(self, "_points", _points(self.layers))
        object.__setattr__(self, "_steps", {step.device: step.seconds for step in self.steps})
        object.__setattr__(self, "_links", {(x.source, x.target): x for x in self.links})

    def decode_seconds(self, device: str, kind: LayerKind, scheme: str, context: int) -> float:
        """Seconds of one layer for one new token after `context` cached ones."""
        return self._look_up(device, kind, scheme, True, context)

    def prefill_seconds(self, device: str, kind: LayerKind, scheme: str, tokens: int) -> float:
        """Seconds of one layer for `tokens` tokens of a fresh prompt."""
        return self._look_up(device, kind, scheme, False, tokens)

    def step_seconds(self, device: str) -> float:
        """Seconds that a step costs this device besides its layers."""
        try:
            return self._steps[device]
        except KeyError:
            raise ProfileError(f"profile: device '{device}' was not measured") from None

    def link(self, source: str, target: str) -> LinkTiming | None:
        return self._links.get((source, target))

    def _look_up(self, device: str, kind: LayerKind, scheme: str, decode: bool, at: float) -> float:
        points = self._points.get((device, kind, scheme, decode))
        if points is None:
            phase = "decode" if decode else "prefill"
            raise ProfileError(f"profile: no {phase} time of {kind} in {scheme} on '{device}'")
        return _interpolate(points[0], points[1], at)

    def to_json(self) -> str:
        document = {
            "version": VERSION,
            "model": self.model,
            "layers": [asdict(timing) for timing in self.layers],
            "steps": [asdict(step) for step in self.steps],
            "links": [asdict(link) for link in self.links],
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
            layers = tuple(
                LayerTiming(**{**entry, "kind": LayerKind(entry["kind"])})
                for entry in document["layers"]
            )
            steps = tuple(StepTiming(**entry) for entry in document["steps"])
            links = tuple(LinkTiming(**entry) for entry in document["links"])
            return Profile(document["model"], layers, steps, links)
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise ProfileError(f"{where}: not a profile: {error!r}") from None

    @staticmethod
    def load(path: Path) -> "Profile":
        try:
            return Profile.from_json(path.read_text(encoding="utf-8"), str(path))
        except OSError as error:
            raise ProfileError(f"cannot read profile {path}: {error.strerror}") from None


def _points(
    layers: Iterable[LayerTiming],
) -> dict[tuple[str, LayerKind, str, bool], tuple[list[float], list[float]]]:
    found: dict[tuple[str, LayerKind, str, bool], dict[int, float]] = {}
    for timing in layers:
        decode = timing.tokens == 1
        key = (timing.device, timing.kind, timing.scheme, decode)
        found.setdefault(key, {})[timing.context if decode else timing.tokens] = timing.seconds
    return {
        key: ([float(x) for x in sorted(series)], [series[x] for x in sorted(series)])
        for key, series in found.items()
    }


def _interpolate(xs: list[float], ys: list[float], at: float) -> float:
    if at > xs[-1] and len(xs) > 1:
        slope = (ys[-1] - ys[-2]) / (xs[-1] - xs[-2])
        return ys[-1] + max(slope, 0.0) * (at - xs[-1])
    return float(np.interp(at, xs, ys))
