"""What a worker holds: the shards of its stages, loaded from its copy of the model, or from files
that it asks the coordinator for."""

import math
from collections.abc import Callable, Sequence

from torch import Tensor

from edgewise.clusters import Device
from edgewise.errors import DeviceMemoryError
from edgewise.memory import device_bytes
from edgewise.models.checkpoint import open_checkpoint
from edgewise.models.decoder import Layer
from edgewise.models.exits import ExitMatrices, HeldExits
from edgewise.models.layer_files import LayerFile, layer_folder, layers_from_files
from edgewise.models.layer_store import LayerFiles
from edgewise.models.shape import ModelShape
from edgewise.models.shard import Shard, load_shard
from edgewise.models.streamed_layers import StreamedLayers, streamed_layers
from edgewise.plans import Stage
from edgewise.quantization.store import Store
from edgewise.runtime import messages
from edgewise.runtime.adapter_messages import AdapterHeld, ExitHeld, HoldAdapter, HoldExit
from edgewise.runtime.additions import unpacked_additions
from edgewise.runtime.limits import limits_of
from edgewise.runtime.messages import Message
from edgewise.runtime.worker.fetching import Fetching
from edgewise.runtime.worker.private import PrivateSplit
from edgewise.schemes import Wire
from edgewise.specs import ModelSpec
from edgewise.units import format_bytes


class Holding:
    """`route` names the device of every stage, `shards` are this device's own, by stage; `wire` is
    what hidden states come and go in."""

    def __init__(
        self, device: Device, report: Callable[[Message], None], private: PrivateSplit
    ) -> None:
        self.device, self._report, self.private = device, report, private
        self.epoch = -1
        self.route: tuple[str, ...] = ()
        self.wire = Wire.FP32
        self.shards: dict[int, Shard] = {}
        self.fetching = Fetching(report)

    def load(self, load: messages.Load) -> None:
        """Hold what a plan says, and no more: at once, or when the files of it have come. Raises
        DeviceMemoryError before anything is let go, and what loading raises."""
        self.epoch = load.epoch
        spec = ModelShape.from_json(load.shape).spec if load.shape else None
        self._check_memory(spec or open_checkpoint(load.model).spec, load)
        self.fetching.begin(load.files, lambda: self._hold(load))

    def adapt(self, hold: HoldAdapter, numbers: Tensor | None) -> None:
        """Hold what an adapter adds to a block. Raises ValueError where it is malformed."""
        if hold.epoch != self.epoch:
            return  # left over from a plan that is no longer loaded
        added = unpacked_additions(hold.parts, numbers)
        for shard in self.shards.values():
            if shard.start <= hold.block + 1 < shard.end:
                shard.adapters.hold(hold.adapter, hold.block + 1 - max(shard.start, 1), added)
        self._report(AdapterHeld(hold.epoch, hold.adapter, hold.block))

    def hold_exit(self, hold: HoldExit, numbers: Tensor | None) -> None:
        """Hold an exit of an adapter of windows. Raises ValueError where it is malformed."""
        if hold.epoch != self.epoch:
            return  # left over from a plan that is no longer loaded
        for shard in self.shards.values():
            width = shard.config.hidden_size
            if numbers is not None and numbers.shape != (width + 1, width):
                raise ValueError(f"an exit of shape {list(numbers.shape)} for a model of {width}")
            exits = shard.adapters.exits.setdefault(hold.adapter, HeldExits(hold.ends, hold.vote))
            if numbers is not None and shard.end == shard.config.num_layers:
                own = numbers.clone()
                exits.hold(hold.exit, ExitMatrices(own[0], own[1:]), shard.device)
        self._report(ExitHeld(hold.epoch, hold.adapter, hold.exit))

    def forget(self, adapter: int) -> None:
        for shard in self.shards.values():
            shard.adapters.forget(adapter)

    def disk_waited(self) -> float:
        """Seconds that layers from disk were waited for since this was asked last."""
        streams = [shard.streamed.stream for shard in self.shards.values() if shard.streamed]
        return sum(stream.waited() for stream in streams)

    def _hold(self, load: messages.Load) -> None:
        held = [layer for shard in self.shards.values() for layer in _in_memory(shard)]
        self._let_go()
        self.wire, self.route = load.workload.wire, tuple(stage.device for stage in load.stages)
        build = _from_files if load.shape else _from_checkpoint
        for number, stage in self._mine(load).items():
            self.shards[number] = build(
                load, stage, self.device, held, lambda layer: self._loaded(load, layer)
            )
            self.private.attach(load, self.shards[number])
        total = sum(shard.weight_bytes + shard.cache.bytes for shard in self.shards.values())
        self._report(messages.Loaded(load.epoch, total))

    def _let_go(self) -> None:
        for shard in self.shards.values():
            shard.close()
        self.shards = {}

    def _loaded(self, load: messages.Load, layer: int) -> None:
        self._report(messages.LayerLoaded(load.epoch, layer))

    def _mine(self, load: messages.Load) -> dict[int, Stage]:
        stages = enumerate(load.stages)
        return {i: stage for i, stage in stages if stage.device == self.device.name}

    def _check_memory(self, spec: ModelSpec, load: messages.Load) -> None:
        stages = list(self._mine(load).values())
        needed = device_bytes(spec, stages, load.workload) if stages else 0
        if needed > self.device.memory_bytes:
            layers = ", ".join(f"{s.start}-{s.end - 1}" for s in stages)
            raise DeviceMemoryError(
                self.device.name,
                f"has {format_bytes(self.device.memory_bytes)} for weights, cache and workspace, "
                f"but layers {layers} need {format_bytes(needed)}",
            )


def _from_checkpoint(
    load: messages.Load,
    stage: Stage,
    device: Device,
    held: Sequence[Layer],
    on_layer: Callable[[int], None],
) -> Shard:
    checkpoint = open_checkpoint(load.model)
    limits, files = limits_of(load.workload, checkpoint.config.max_context), list[LayerFile]()
    if stage.streamed:
        store = LayerFiles(checkpoint, load.rounding)
        files = [store.file(x, stage.schemes[x - stage.start]) for x in stage.streamed]
    shape = ModelShape.of(checkpoint)
    return load_shard(
        checkpoint,
        stage.start,
        stage.end,
        stage.schemes,
        device=device.processor,
        slots=limits.sequences * load.workload.streams,
        context=limits.context,
        tokens=limits.cache_tokens * load.workload.streams,
        cache=load.workload.cache,
        method=load.rounding,
        store=Store.default(),
        held=held,
        streamed=_streamed(shape, stage, files, device, on_layer),
        on_layer=on_layer,
    )


def _from_files(
    load: messages.Load,
    stage: Stage,
    device: Device,
    held: Sequence[Layer],
    on_layer: Callable[[int], None],
) -> Shard:
    shape, folder = ModelShape.from_json(load.shape), layer_folder()
    limits = limits_of(load.workload, shape.config.max_context)
    streamed = _streamed(shape, stage, load.files, device, on_layer)
    layers = layers_from_files(
        shape,
        stage.start,
        stage.schemes,
        load.files,
        folder,
        device=device.processor,
        there=streamed.layers if streamed else {},
        on_layer=on_layer,
    )
    return Shard(
        shape.config,
        stage.start,
        layers,
        slots=limits.sequences * load.workload.streams,
        context=limits.context,
        tokens=limits.cache_tokens * load.workload.streams,
        cache=load.workload.cache,
        streamed=streamed,
    )


def _in_memory(shard: Shard) -> list[Layer]:
    """The layers whose weights always are."""
    streamed = list(shard.streamed.layers.values()) if shard.streamed else []
    return [layer for layer in shard.layers if layer not in streamed]


def _streamed(
    shape: ModelShape,
    stage: Stage,
    files: Sequence[LayerFile],
    device: Device,
    on_layer: Callable[[int], None],
) -> StreamedLayers | None:
    """Those that live on the device's disk, read no faster than that is said to be."""
    if not stage.streamed:
        return None
    schemes = {number: stage.schemes[number - stage.start] for number in stage.streamed}
    rate = device.disk_bytes_per_second or math.inf
    return streamed_layers(shape, schemes, files, layer_folder(), rate, on_layer)
