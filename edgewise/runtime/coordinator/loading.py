"""A plan into its workers."""

import contextlib
import math
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import cached_property

from edgewise.adapters.private import PrivateAdapter
from edgewise.errors import DeviceLost, DeviceTimeout, DiskError
from edgewise.models.checkpoint import Checkpoint, open_checkpoint
from edgewise.models.layer_store import LayerFiles
from edgewise.models.shape import ModelShape
from edgewise.plans import Plan
from edgewise.runtime import messages
from edgewise.runtime.coordinator.adapters import Adapters
from edgewise.runtime.coordinator.sending import PieceSender
from edgewise.runtime.coordinator.workers import Workers
from edgewise.specs import Workload
from edgewise.streaming import streamed_bytes

LOAD_SECONDS = 600.0  # per layer: some layers come from a hub first
SLOW_DISK = 4.0  # times what reading should take, after which a device is taken to be stuck
LOADING = messages.LayerLoaded | messages.Loaded

OnLayer = Callable[[int], None]


class PlanLoader:
    """Has workers hold plans for one model. Those that have no copy of it are sent their layers,
    piece by piece, as they ask for them."""

    def __init__(
        self,
        workers: Workers,
        model: str,
        adapters: Adapters,
        private: PrivateAdapter | None = None,
    ) -> None:
        self._workers, self._model = workers, model
        self._adapters, self._private = adapters, private
        self.read_seconds = 0.0  # that a step may take for layers on disks
        self._pieces = PieceSender(workers)

    @cached_property
    def _checkpoint(self) -> Checkpoint:
        return open_checkpoint(self._model)

    def load(self, plan: Plan, workload: Workload, on_layer: OnLayer) -> dict[str, int]:
        """Returns the bytes that each device of a plan takes. Devices that it leaves out hear of
        it too: they let go of what they held before."""
        workers = self._workers
        workers.epoch += 1
        # Files need a folder, which not every user has.
        sends = any(map(workers.is_remote, workers.names))
        files = LayerFiles(self._checkpoint, plan.rounding) if sends else None
        for name in workers.names:
            layers = [f"{s.start}-{s.end - 1}" for s in plan.stages if s.device == name]
            workers.roles[name] = f"while it held layers {', '.join(layers) or 'none'}"
            with _sent_to(name):
                workers.send(name, self._order(name, plan, workload, files))
        sizes = self._wait_for_all(files, on_layer)
        self._adapters.load(plan)
        self.read_seconds = SLOW_DISK * self._reads(plan)
        return {name: sizes[name] for name in plan.devices}

    def _wait_for_all(self, files: LayerFiles | None, on_layer: OnLayer) -> dict[str, int]:
        """The bytes that each device takes. Raises DeviceTimeout for one that has not done anything
        for LOAD_SECONDS, whatever others do."""
        workers, sizes, waited = self._workers, dict[str, int](), 0.0
        last = dict.fromkeys(workers.names, 0.0)  # what was waited when one did something
        while last:
            slowest = min(last, key=last.__getitem__)
            left, began = last[slowest] + LOAD_SECONDS - waited, time.monotonic()
            envelope = workers.receive(left) if left > 0 else None
            waited += time.monotonic() - began
            if envelope is None:
                raise DeviceTimeout(slowest, f"loaded nothing for {LOAD_SECONDS:g} s")
            message, sender = envelope.message, envelope.sender
            if isinstance(message, messages.Fetch) and files is not None:
                with _sent_to(sender):
                    self._pieces.send(sender, message, files)
            elif not isinstance(message, LOADING) or message.epoch != workers.epoch:
                continue
            elif isinstance(message, messages.LayerLoaded):
                on_layer(message.layer)
            else:
                sizes[sender] = message.size
                last.pop(sender, None)
            if sender in last:
                last[sender] = waited
        return sizes

    def _reads(self, plan: Plan) -> float:
        """Seconds of reading in a step of a plan, at the rates that disks are said to have."""
        seconds, cluster = 0.0, self._workers.cluster
        for stage in plan.stages:
            if stage.streamed:
                rate = cluster.device(stage.device).disk_bytes_per_second or math.inf
                seconds += sum(streamed_bytes(self._checkpoint.spec, stage)) / rate
        return seconds

    def _order(
        self, name: str, plan: Plan, workload: Workload, files: LayerFiles | None
    ) -> messages.Load:
        order = (self._workers.epoch, self._model, plan.stages, plan.rounding, workload)
        private = self._private
        if private is not None and name != private.source:
            private = replace(private, folder="")  # where M is concerns nobody else
        if files is None or not self._workers.is_remote(name):
            return messages.Load(*order, private=private)
        shape = ModelShape.of(self._checkpoint).to_json()
        mine = [stage for stage in plan.stages if stage.device == name]
        wanted = tuple(file for stage in mine for file in files.of_stage(stage))
        return messages.Load(*order, shape, wanted, private)


@contextlib.contextmanager
def _sent_to(device: str) -> Iterator[None]:
    """Where this machine cannot keep or read the files of a device's layers, others go on without
    that one."""
    try:
        yield
    except DiskError as error:
        raise DeviceLost(device, f"cannot be sent its layers: {error}") from error
