"""Profiles of devices that nobody measured here: from a few figures per kind of device.

A layer's seconds are those of the slower of reading and computing, plus a constant (the roofline of
Williams, Waterman and Patterson 2009):

    seconds = max(bytes / bytes_per_second, flops / flops_per_second) + overhead

- bytes: the layer's weights in their scheme (of an embedding only the rows looked up), the cached
  tokens of every sequence, and the hidden states in and out
- flops: two per weight and token, and four per token, cached token and unit of width for attention
- overhead: per kind of device and scheme

Where published milliseconds per layer of a reference model exist, they give the rate of reading,
kind of layer by kind of layer: bytes per second = the reference layer's weights / its seconds.
Another model or scheme then takes time in proportion to its weights. Reading the cache is part of
such measurements, so no longer context costs more.
"""

import math
import tomllib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from edgewise.errors import InputError, ProfileError
from edgewise.profiles import DeviceReading, LayerTiming, Profile
from edgewise.schemes import SCHEMES, CacheType, Scheme, get_scheme
from edgewise.specs import ACTIVATION_BYTES, LayerKind, LayerSpec, ModelSpec
from edgewise.units import parse_seconds

_KEYS = (
    "name",
    "gigabytes_per_second",
    "gigaflops",
    "step",
    "overhead",
    "scheme_overheads",
    "layer_milliseconds",
)
_DECODE = tuple((b, 1, past) for b in (1, 4, 16) for past in (0, 256, 1024))
_PREFILL = tuple((b, tokens, 0) for b in (1, 4) for tokens in (8, 32, 128, 512))


@dataclass(frozen=True, slots=True)
class Roofline:
    """What a kind of device can do. `layer_seconds` holds measured seconds per layer of the
    reference model in fp32, in place of `bytes_per_second`."""

    name: str
    flops_per_second: float
    bytes_per_second: float = float("inf")
    step_seconds: float = 0.0
    overhead_seconds: float = 0.0
    scheme_overheads: Mapping[str, float] = field(default_factory=dict)
    layer_seconds: Mapping[LayerKind, float] = field(default_factory=dict)

    def seconds(
        self,
        model: ModelSpec,
        layer: LayerSpec,
        scheme: Scheme,
        shape: tuple[int, int, int],
        reference: ModelSpec | None = None,
    ) -> float:
        """Seconds of one layer for (sequences, new tokens each, cached tokens each)."""
        kind = LayerKind.BLOCK if layer.kind.is_block else layer.kind
        if kind in self.layer_seconds:
            if reference is None:
                raise ProfileError(f"'{self.name}': layer_milliseconds need a reference model")
            weights = layer.weight_bytes(scheme) / _alike(reference, kind)
            reading = self.layer_seconds[kind] * weights
        else:
            reading = _bytes(model, layer, scheme, shape) / self.bytes_per_second
        computing = _flops(model, layer, shape) / self.flops_per_second
        overhead = self.scheme_overheads.get(scheme.name, self.overhead_seconds)
        return max(reading, computing) + overhead


def _alike(reference: ModelSpec, kind: LayerKind) -> int:
    """fp32 bytes of the reference model's layer of that kind."""
    layer = next(layer for layer in reference.layers if layer.kind is kind)
    return layer.weight_bytes(get_scheme("fp32"))


def _bytes(
    model: ModelSpec, layer: LayerSpec, scheme: Scheme, shape: tuple[int, int, int]
) -> float:
    sequences, tokens, past = shape
    rows = sequences * tokens
    states = 2 * rows * model.hidden_size * ACTIVATION_BYTES
    seen = min(past + tokens, layer.window or math.inf)
    cache = sequences * seen * layer.cached_bytes(scheme, CacheType.FULL)
    return states + cache + layer.read_bytes(scheme, rows)


def _flops(model: ModelSpec, layer: LayerSpec, shape: tuple[int, int, int]) -> float:
    sequences, tokens, past = shape
    if layer.kind is LayerKind.EMBEDDING:
        return 0.0
    weights = sum(rows * columns for rows, columns in layer.matrices)
    # Cached tokens that a new token attends to, on average.
    seen = min(past + (tokens + 1) / 2, layer.window or math.inf)
    attention = 4 * seen * model.hidden_size if layer.kind is LayerKind.BLOCK else 0.0
    return sequences * tokens * (2 * weights + attention)


def make_profile(
    model: ModelSpec,
    kinds: Iterable[Roofline],
    schemes: Sequence[str],
    reference: ModelSpec | None = None,
) -> Profile:
    """A profile as if every kind of device had been timed on a small grid of shapes. It knows no
    links: those of the cluster count."""
    rooflines = tuple(kinds)
    timings = tuple(
        timing
        for roofline in rooflines
        for name in schemes
        for timing in _timings(model, roofline, get_scheme(name), reference)
    )
    readings = tuple(DeviceReading(x.name, x.step_seconds, machine="synthetic") for x in rooflines)
    return Profile(model.digest, timings, readings, ())


def _timings(
    model: ModelSpec, roofline: Roofline, scheme: Scheme, reference: ModelSpec | None
) -> Iterator[LayerTiming]:
    for name, layer in dict(zip(model.classes, model.layers, strict=True)).items():
        # A head never sees more than the last position of each prompt.
        for shape in (*_DECODE, *(() if layer.kind is LayerKind.HEAD else _PREFILL)):
            seconds = roofline.seconds(model, layer, scheme, shape, reference)
            yield LayerTiming(roofline.name, name, scheme.name, *shape, seconds)


def load_rooflines(path: Path) -> tuple[Roofline, ...]:
    """Read [[kind]] tables. Raises ProfileError naming the file and the key."""
    try:
        table = tomllib.loads(path.read_text(encoding="utf-8"))
        _only(table, ("kind",), "the file")
        rooflines = tuple(_roofline(entry) for entry in table.get("kind", ()))
    except OSError as error:
        raise ProfileError(f"cannot read {path}: {error.strerror}") from None
    except (InputError, ValueError, TypeError, RecursionError) as error:  # of TOML, too
        raise ProfileError(f"{path}: {error}") from None
    names = [roofline.name for roofline in rooflines]
    if twice := [name for name in names if names.count(name) > 1]:
        raise ProfileError(f"{path}: two kinds are called '{twice[0]}'")
    return rooflines


def _roofline(entry: Mapping[str, Any]) -> Roofline:
    _only(entry, _KEYS, "a kind")
    name = entry.get("name", "")
    where = f"kind '{name}'"
    if missing := [key for key in ("name", "gigaflops") if key not in entry]:
        raise ProfileError(f"{where}: key '{missing[0]}' is missing")
    if ("gigabytes_per_second" in entry) == ("layer_milliseconds" in entry):
        raise ProfileError(f"{where}: give either gigabytes_per_second or layer_milliseconds")
    if not isinstance(name, str):
        raise ProfileError(f"{where}: key 'name' has the wrong type")
    for key in (key for key in _KEYS[1:3] if key in entry):
        if not isinstance(entry[key], int | float) or isinstance(entry[key], bool):
            raise ProfileError(f"{where}: key '{key}' has the wrong type: {entry[key]!r}")
    rates = {key: float(entry[key]) for key in _KEYS[1:3] if key in entry}
    if unusable := [key for key, rate in rates.items() if not rate > 0]:
        raise ProfileError(f"{where}: {unusable[0]} must be positive")
    measured = entry.get("layer_milliseconds", {})
    return Roofline(
        name=name,
        flops_per_second=rates["gigaflops"] * 1e9,
        bytes_per_second=rates.get("gigabytes_per_second", float("inf")) * 1e9,
        step_seconds=parse_seconds(entry.get("step", "0 s")),
        overhead_seconds=parse_seconds(entry.get("overhead", "0 s")),
        scheme_overheads=_overheads(entry.get("scheme_overheads", {}), where),
        layer_seconds=_layer_seconds(measured, where) if measured else {},
    )


def _overheads(table: Mapping[str, Any], where: str) -> dict[str, float]:
    _only(table, tuple(SCHEMES), f"{where}: scheme_overheads")
    return {scheme: parse_seconds(text) for scheme, text in table.items()}


def _layer_seconds(table: Mapping[str, Any], where: str) -> dict[LayerKind, float]:
    """From the embedding, the head, and the whole model with so many blocks, in milliseconds."""
    _only(table, ("embedding", "head", "all", "blocks"), f"{where}: layer_milliseconds")
    try:
        embedding, head, whole = (float(table[key]) / 1e3 for key in ("embedding", "head", "all"))
        block = (whole - embedding - head) / table["blocks"]
    except KeyError as error:
        raise ProfileError(f"{where}: layer_milliseconds: key {error} is missing") from None
    if min(embedding, head, block) <= 0:
        raise ProfileError(f"{where}: layer_milliseconds must be positive")
    return {LayerKind.EMBEDDING: embedding, LayerKind.BLOCK: block, LayerKind.HEAD: head}


def _only(table: Mapping[str, Any], known: tuple[str, ...], where: str) -> None:
    if not isinstance(table, dict):
        raise ProfileError(f"{where} must be a table")
    if unknown := [key for key in table if key not in known]:
        raise ProfileError(f"{where}: unknown key '{unknown[0]}'; known keys: {', '.join(known)}")
