"""Plans: stages in order, with a scheme per layer. A plan that does not tile its model cannot
exist, so nothing that receives one needs to check it again."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from itertools import groupby, pairwise
from pathlib import Path
from typing import Any, TypeVar

from edgewise.clusters import Cluster
from edgewise.errors import ClusterError, PlanError, SchemeError
from edgewise.schemes import CacheType, Wire, get_scheme
from edgewise.specs import ModelSpec

VERSION = 2

Named = TypeVar("Named", bound=StrEnum)


@dataclass(frozen=True, slots=True)
class Stage:
    """Layers [start, end) on one device, `schemes[i]` storing layer start + i. The blocks
    `streamed`, ascending, live on its disk: they are read for every step."""

    device: str
    start: int
    end: int
    schemes: tuple[str, ...]
    streamed: tuple[int, ...] = ()

    def __str__(self) -> str:
        kinds = [f"{name} x{len(list(run))}" for name, run in groupby(self.schemes)]
        disk = f", {len(self.streamed)} of them from disk" if self.streamed else ""
        return f"{self.device}: layers {self.start}-{self.end - 1} ({', '.join(kinds)}){disk}"


@dataclass(frozen=True, slots=True)
class Plan:
    """`model` is the name people know it by, `digest` the shape it was made for; `rounding` the
    method that quantizes its layers, where that is not each scheme's own; `cache` how keys and
    values are kept, `wire` what hidden states cross links in."""

    model: str
    digest: str
    num_layers: int
    stages: tuple[Stage, ...]
    rounding: str | None = None
    cache: CacheType = CacheType.FULL
    wire: Wire = Wire.FP32

    def __post_init__(self) -> None:
        at = 0
        for number, stage in enumerate(self.stages):
            where = f"stage {number} on '{stage.device}'"
            if stage.start != at:
                what = "is not assigned" if stage.start > at else "is assigned twice"
                layer = at if stage.start > at else stage.start
                raise PlanError(f"layer {layer} {what}: {where} starts at layer {stage.start}")
            if stage.end <= stage.start:
                raise PlanError(f"{where} holds no layer: [{stage.start}, {stage.end})")
            if len(stage.schemes) != stage.end - stage.start:
                raise PlanError(
                    f"{where} has {len(stage.schemes)} schemes for {stage.end - stage.start} layers"
                )
            for scheme in stage.schemes:
                get_scheme(scheme)
            self._check_streamed(stage, where)
            at = stage.end
        if at != self.num_layers:
            raise PlanError(f"the stages end at layer {at}, the model at layer {self.num_layers}")

    def _check_streamed(self, stage: Stage, where: str) -> None:
        blocks = range(max(stage.start, 1), min(stage.end, self.num_layers - 1))
        if outside := [layer for layer in stage.streamed if layer not in blocks]:
            raise PlanError(f"{where}: layer {outside[0]} from disk is none of its blocks")
        if list(stage.streamed) != sorted(set(stage.streamed)):
            raise PlanError(f"{where}: its layers from disk must ascend: {stage.streamed}")

    @property
    def schemes(self) -> tuple[str, ...]:
        """The scheme of every layer."""
        return tuple(scheme for stage in self.stages for scheme in stage.schemes)

    @property
    def devices(self) -> tuple[str, ...]:
        """The devices used, each once, in order of first use."""
        return tuple(dict.fromkeys(stage.device for stage in self.stages))

    @property
    def rounded(self) -> dict[int, Wire]:
        """The layers whose inputs are rounded on their way to them, and to what. The model's
        answers depend on these as on its schemes."""
        if self.wire is Wire.FP32:
            return {}
        return {b.start: self.wire for a, b in pairwise(self.stages) if a.device != b.device}

    def __str__(self) -> str:
        return "; ".join(map(str, self.stages))

    def check(self, model: ModelSpec, cluster: Cluster) -> None:
        """Raise PlanError where this plan was made for another model or other devices."""
        self.check_model(model)
        for name in self.devices:
            try:
                device = cluster.device(name)
            except ClusterError as error:
                raise PlanError(f"this plan is for other devices: {error}") from None
            if not device.disk_bytes_per_second and any(
                stage.streamed for stage in self.stages if stage.device == name
            ):
                raise PlanError(
                    f"this plan has layers on the disk of '{name}', but the cluster says of none: "
                    'give the device a rate, such as disk = "500 MB/s"'
                )

    def check_model(self, model: ModelSpec) -> None:
        """Raise PlanError where this plan was made for another model."""
        if (self.digest, self.num_layers) != (model.digest, model.num_layers):
            raise PlanError(
                f"this plan is for model '{self.model}' ({self.num_layers} layers, shape "
                f"{self.digest}), not for '{model.name}' ({model.num_layers} layers, shape "
                f"{model.digest}); make a new plan"
            )

    def to_json(self) -> str:
        stages = [_stage_json(stage) for stage in self.stages]
        document: dict[str, object] = {
            "version": VERSION,
            "model": self.model,
            "digest": self.digest,
            "num_layers": self.num_layers,
            "stages": stages,
        }
        if self.rounding is not None:
            document["rounding"] = self.rounding
        if self.cache is not CacheType.FULL:
            document["cache"] = self.cache
        if self.wire is not Wire.FP32:
            document["wire"] = self.wire
        return json.dumps(document, indent=1, allow_nan=False)

    @staticmethod
    def from_json(text: str, where: str = "plan") -> "Plan":
        """Raises PlanError, which names `where`."""
        try:
            document = json.loads(text)
        except (ValueError, RecursionError) as error:
            raise PlanError(f"{where}: not JSON: {error}") from None
        keys = ("version", "model", "digest", "num_layers", "stages")
        _only(document, keys, where, optional=("rounding", "cache", "wire"))
        if document["version"] != VERSION:
            raise PlanError(
                f"{where}: version {document['version']}, but this Edgewise reads {VERSION}; "
                "make a new plan with `edgewise plan`"
            )
        types = {"model": str, "digest": str, "num_layers": int, "stages": list}
        types |= {"rounding": str, "cache": str, "wire": str}
        _typed({"rounding": "", "cache": "", "wire": "", **document}, types, where)
        try:
            stages = tuple(_stage(entry) for entry in document["stages"])
            named = document["model"], document["digest"], document["num_layers"]
            cache = _named("cache", CacheType, document.get("cache", CacheType.FULL))
            wire = _named("wire", Wire, document.get("wire", Wire.FP32))
            return Plan(*named, stages, document.get("rounding"), cache, wire)
        except (TypeError, SchemeError, PlanError) as error:
            raise PlanError(f"{where}: {error}") from None

    @staticmethod
    def load(path: Path) -> "Plan":
        try:
            return Plan.from_json(path.read_text(encoding="utf-8"), str(path))
        except OSError as error:
            raise PlanError(f"cannot read plan {path}: {error.strerror}") from None
        except UnicodeDecodeError:
            raise PlanError(f"{path}: not JSON: not UTF-8 text") from None


def _stage(entry: Mapping[str, Any]) -> Stage:
    _only(entry, ("device", "start", "end", "schemes"), "stage", optional=("streamed",))
    streamed = entry.get("streamed", [])
    types = {"device": str, "start": int, "end": int, "schemes": list, "streamed": list}
    _typed({**entry, "streamed": streamed}, types, "stage")
    if wrong := [x for x in streamed if not isinstance(x, int) or isinstance(x, bool)]:
        raise PlanError(f"stage: 'streamed' must list layers by number, not {wrong[0]!r}")
    place = entry["device"], entry["start"], entry["end"]
    return Stage(*place, tuple(entry["schemes"]), tuple(streamed))


def _stage_json(stage: Stage) -> dict[str, object]:
    entry: dict[str, object] = {"device": stage.device, "start": stage.start, "end": stage.end}
    entry["schemes"] = stage.schemes
    return {**entry, "streamed": stage.streamed} if stage.streamed else entry


def _named(what: str, kind: type[Named], name: str) -> Named:
    if name not in list(kind):
        raise PlanError(f"unknown {what} '{name}'; known {what}s: {', '.join(kind)}")
    return kind(name)


def _typed(table: Mapping[str, Any], types: Mapping[str, type], where: str) -> None:
    for key, kind in types.items():
        if not isinstance(table[key], kind) or isinstance(table[key], bool):
            raise PlanError(f"{where}: key '{key}' has the wrong type: {table[key]!r}")


def _only(
    table: Mapping[str, Any], keys: tuple[str, ...], where: str, optional: tuple[str, ...] = ()
) -> None:
    if not isinstance(table, dict):
        raise PlanError(f"{where} is not a JSON object")
    known = (*keys, *optional)
    if unknown := [key for key in table if key not in known]:
        raise PlanError(f"{where}: unknown key '{unknown[0]}'; known keys: {', '.join(known)}")
    if missing := [key for key in keys if key not in table]:
        raise PlanError(f"{where}: key '{missing[0]}' is missing")
