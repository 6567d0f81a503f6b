"""What a worker holds: the shards of its stages, and their layers from one plan to the next."""

from collections.abc import Callable

from torch import Tensor

from edgewise.clusters import Device
from edgewise.costs import device_bytes
from edgewise.errors import DeviceMemoryError
from edgewise.models.checkpoint import open_checkpoint
from edgewise.models.shard import Shard, load_shard
from edgewise.plans import Stage
from edgewise.quantization.store import Store
from edgewise.runtime import messages
from edgewise.runtime.limits import limits_of
from edgewise.runtime.messages import Message
from edgewise.specs import ModelSpec, Workload
from edgewise.units import format_bytes


class Holding:
    """`route` names the device of every stage, `shards` are this device's own, by stage."""

    def __init__(self, device: Device, report: Callable[[Message], None]) -> None:
        self.device, self._report = device, report
        self.epoch = -1
        self.route: tuple[str, ...] = ()
        self.shards: dict[int, Shard] = {}

    def load(self, load: messages.Load) -> None:
        """Hold what a plan says, and no more. Raises DeviceMemoryError before anything is let go,
        and what loading raises."""
        checkpoint = open_checkpoint(load.model)
        stages = dict(enumerate(load.stages))
        mine = {i: stage for i, stage in stages.items() if stage.device == self.device.name}
        self._check_memory(checkpoint.spec, list(mine.values()), load.workload)
        self.epoch, self.route = load.epoch, tuple(stage.device for stage in load.stages)
        held = [layer for shard in self.shards.values() for layer in shard.layers]
        self.shards.clear()
        limits = limits_of(load.workload, checkpoint.config.max_context)
        for number, stage in mine.items():
            self.shards[number] = load_shard(
                checkpoint,
                stage.start,
                stage.end,
                stage.schemes,
                device=self.device.processor,
                slots=limits.sequences,
                context=limits.context,
                tokens=limits.cache_tokens,
                cache=load.workload.cache,
                method=load.rounding,
                store=Store.default(),
                held=held,
                on_layer=lambda layer: self._report(messages.LayerLoaded(load.epoch, layer)),
            )
        total = sum(shard.weight_bytes + shard.cache.bytes for shard in self.shards.values())
        self._report(messages.Loaded(load.epoch, total))

    def _check_memory(self, spec: ModelSpec, stages: list[Stage], workload: Workload) -> None:
        needed = device_bytes(spec, stages, workload) if stages else 0
        if needed > self.device.memory_bytes:
            layers = ", ".join(f"{s.start}-{s.end - 1}" for s in stages)
            raise DeviceMemoryError(
                self.device.name,
                f"has {format_bytes(self.device.memory_bytes)} for weights, cache and workspace, "
                f"but layers {layers} need {format_bytes(needed)}",
            )

    def receive(self, piece: messages.Piece, content: Tensor | None) -> None:
        """Go on with files that this worker asked for."""
        raise NotImplementedError
