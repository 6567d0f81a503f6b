"""THE cost model: the only place, with memory.py, where seconds and bytes are added up.

Planners, simulator, tables and the worker that refuses an oversized stage all ask here.

A hop of n bytes occupies its link for n / bandwidth and then has the latency as a delay, in which
the link carries others (clusters.Link). A lane's round trip, per token, has both:

    entry hop + sum over stages (step overhead + layer times at the workload's middle context)
    + hops between devices + return hop of the sampled token to the source

With Q micro-batches in flight and no barrier between tokens, a token of every sequence takes
max(round trip, Q * bottleneck); with a barrier ("bubbles") round trip + (Q - 1) * bottleneck. The
bottleneck is the busiest device, link or network interface, all that it computes or carries in a
round together; delays keep nobody busy. A device's interface sends what leaves for any other
device, and receives what comes from any, at its rate; a link is no faster than the interfaces at
its ends. Computing and sending overlap (EdgeShard, section 1.5-1.6 of the notes;
PipeEdge).

Prompts travel in chunks, one behind the other: the time to the first token is when the last chunk
is through, all of these serving chunks first come, first served.

Memory of a device: weights at their schemes + cache for the workload + workspace. That is what its
cap is for; the process that holds them is counted against what the machine has free. Layers on its
disk take two buffers instead (streaming.py): their disk is busy for what is read, once a step, and
no round trip is shorter.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import pairwise

from edgewise.clusters import Cluster, Link
from edgewise.errors import Infeasible
from edgewise.estimates import (
    DISK,
    Estimate,
    Hop,
    StageEstimate,
    busy_seconds,
    last_chunk_seconds,
    total_seconds,
)
from edgewise.memory import PREFILL_CHUNK, device_bytes, layer_bytes, limit_bytes, workspace_bytes
from edgewise.plans import Plan, Stage
from edgewise.profiles import Key, Profile
from edgewise.sensitivities import Sensitivity
from edgewise.specs import ACTIVATION_BYTES, TOKEN_BYTES, LayerKind, ModelSpec, Workload
from edgewise.streaming import overlapped_seconds, streamed_bytes
from edgewise.units import format_bytes


@dataclass(frozen=True, slots=True)
class CostModel:
    """Answers what things cost for one model, cluster, profile and workload. `on_disk`: so many
    bytes of layers, for planners, find room on a device beside its memory."""

    model: ModelSpec
    cluster: Cluster
    profile: Profile
    workload: Workload
    sensitivity: Sensitivity | None = None
    on_disk: Mapping[str, int] = field(default_factory=dict, hash=False)

    def decode_seconds(self, layer: int, device: str, scheme: str) -> float:
        """One layer, one token of each sequence of a lane, midway through the answer (LLM-PQ); a
        block with the trips to the source that private adapters take."""
        middle = self.workload.prompt_tokens + self.workload.new_tokens // 2
        where = self.cluster.device(device).kind, self._timed_class(layer), scheme
        seconds = self.profile.decode_seconds(*where, middle, self.workload.batch)
        return seconds * self._busy_ratio(device) + self.trip_seconds(layer, device)

    def _timed_class(self, layer: int) -> str:
        """What seconds of a layer with what it does in service are known by."""
        name, kind = self.model.classes[layer], self.model.layers[layer].kind
        return self.workload.extra.timed(name, kind)

    def trip_seconds(self, layer: int, device: str, tokens: int = 1) -> float:
        """How long a block waits for the source, which has every M: of each adapted matrix, D x of
        so many tokens of each sequence goes there, and M D x comes back, while it waits."""
        private, source = self.workload.extra.private, self.cluster.source
        is_block = self.model.layers[layer].kind is LayerKind.BLOCK
        if private is None or device == source or not is_block:
            return 0.0
        count = tokens * self.workload.batch * ACTIVATION_BYTES
        ways = [(x, y, self.link(x, y)) for x, y in ((device, source), (source, device))]
        return sum(self._hop(*way, count * x).seconds for x in private.numbers for way in ways)

    def _busy_ratio(self, device: str) -> float:
        """Of several lanes one is always there for the busiest device, which is what counts; of a
        single one every device waits for the others."""
        if self.workload.micro_batches == 1:
            return 1.0
        return self.profile.reading(self.cluster.device(device).kind).busy_ratio

    @property
    def chunks(self) -> tuple[int, ...]:
        """Tokens of each chunk in which a prompt travels."""
        whole, rest = divmod(self.workload.prompt_tokens, PREFILL_CHUNK)
        return (PREFILL_CHUNK,) * whole + ((rest,) if rest else ())

    def chunk_seconds(self, layer: int, device: str, scheme: str) -> tuple[float, ...]:
        """One layer, each chunk of a lane's prompts."""
        work, chunks = self.workload, self.chunks
        where = self.cluster.device(device).kind, self._timed_class(layer), scheme
        if self.model.layers[layer].kind is LayerKind.HEAD:  # sees the last position only
            last = self.profile.decode_seconds(*where, work.prompt_tokens, work.batch)
            return (0.0,) * (len(chunks) - 1) + (last,)
        return tuple(
            self.profile.prefill_seconds(*where, tokens, work.batch, i * PREFILL_CHUNK)
            + self.trip_seconds(layer, device, tokens)
            for i, tokens in enumerate(chunks)
        )

    def prefill_seconds(self, layer: int, device: str, scheme: str) -> float:
        """One layer, the whole prompts of a lane."""
        return sum(self.chunk_seconds(layer, device, scheme))

    def step_seconds(self, device: str) -> float:
        """What a step costs a device besides its layers."""
        reading = self.profile.reading(self.cluster.device(device).kind)
        return reading.step_seconds * self._busy_ratio(device)

    def link(self, source: str, target: str) -> Link | None:
        """A link as measured, else as the cluster file says, no faster than the interfaces at its
        ends; None where nothing connects them."""
        measured = self.profile.link(source, target)
        if measured is not None:
            return self.cluster.within_interfaces(measured)
        return self.cluster.link(source, target)

    @property
    def hidden_bytes(self) -> int:
        """Bytes that a lane's hidden states take on a link, a token of each sequence. Beside it
        there may be a branch's, and what came out of windows: one row more is counted anywhere."""
        rows = self.workload.batch * (2 if self.workload.extra.branches else 1)
        return rows * self.workload.wire.row_bytes(self.model.hidden_size)

    def activation_hop(self, source: str, target: str, tokens: int = 1) -> Hop:
        """The hidden states of so many tokens of each sequence of a lane; stages that follow each
        other on one device pay nothing. Infinite where nothing connects the devices."""
        if source == target:
            return Hop(source, target)
        count = tokens * self.hidden_bytes
        return self._hop(source, target, self.link(source, target), count)

    def enter_seconds(self, source: str, target: str) -> float:
        """What it costs a token to go on at `target`: the hop, and another step there."""
        if source == target:
            return 0.0
        return self.activation_hop(source, target).seconds + self.step_seconds(target)

    def entry_hop(self, target: str, tokens: int = 1) -> Hop:
        """A lane's token ids on their way in. On the source it still costs the way into the
        worker."""
        source = self.cluster.source
        count = tokens * self.workload.batch * TOKEN_BYTES
        name = "" if target == source else source
        return self._hop(name, target, self.link(source, target), count)

    def return_hop(self, source: str) -> Hop:
        """A lane's sampled token ids on their way back."""
        target = self.cluster.source
        name = "" if source == target else target
        return self._hop(source, name, self.link(source, target), self.workload.batch * TOKEN_BYTES)

    def interface_seconds(self, devices: Sequence[str]) -> float:
        """How long the busiest interface is busy for a token of a lane that goes from device to
        device."""
        hops = [self.activation_hop(a, b) for a, b in pairwise(devices)]
        hops += [self.entry_hop(devices[0]), self.return_hop(devices[-1])]
        busy = total_seconds(use for hop in hops for use in hop.uses if use.resource.way)
        return max(busy.values(), default=0.0)

    def _hop(self, source: str, target: str, link: Link | None, count: int) -> Hop:
        if link is None:
            return Hop(source, target, 0.0, float("inf"))
        hop = Hop(source, target, link.occupancy_seconds(count), link.latency_seconds)
        if not (source and target):
            return hop
        ends = self.cluster.device(source), self.cluster.device(target)
        sending, receiving = (count / end.interface_bytes_per_second for end in ends)
        return replace(hop, sending_seconds=sending, receiving_seconds=receiving)

    def layer_bytes(self, layer: int, scheme: str) -> int:
        return layer_bytes(self.model, layer, scheme, self.workload)

    def loss(self, layer: int, scheme: str) -> float:
        """Predicted loss of quality when one layer takes a scheme; none is known to be free."""
        if self.sensitivity is None:
            return 0.0
        values = self.sensitivity.losses.get(scheme)
        return float("inf") if values is None else values[layer]

    def memory_limit(self, device: str) -> int:
        """Memory of a device for weights, cache and workspace."""
        return limit_bytes(self.cluster, self.profile, device)

    def capacity_bytes(self, device: str) -> int:
        """Memory of a device that is left for layers, and what of its disk is for them."""
        room = self.memory_limit(device) - workspace_bytes(self.model, self.workload)
        return room + self.on_disk.get(device, 0)

    def disk_rate(self, device: str) -> float:
        """Bytes a second that a device reads layers at: as measured, no faster than is said of it;
        0 where it has no disk for them."""
        this = self.cluster.device(device)
        if not this.disk_bytes_per_second:
            return 0.0
        measured = self.profile.reading(this.kind).disk_bytes_per_second
        return min(this.disk_bytes_per_second, measured or math.inf)

    def memory_bytes(self, plan: Plan) -> dict[str, int]:
        """Memory that a plan takes on each device it uses."""
        return {
            name: device_bytes(
                self.model, [s for s in plan.stages if s.device == name], self.workload
            )
            for name in plan.devices
        }

    def check_memory(self, plan: Plan) -> None:
        """Raise Infeasible, naming the first device that is too small and by how much."""
        for name, needed in self.memory_bytes(plan).items():
            has = self.memory_limit(name)
            if needed > has:
                raise Infeasible(
                    f"device '{name}' has {format_bytes(has)} for weights, cache and workspace "
                    f"but would need {format_bytes(needed)}: {format_bytes(needed - has)} too "
                    "little",
                    shortage_bytes=needed - has,
                )

    def estimate(self, plan: Plan) -> Estimate:
        """Predict a plan's times, memory and loss. Raises ProfileError for a missing timing."""
        stages = tuple(
            self._stage(before, stage) for before, stage in pairwise((None, *plan.stages)) if stage
        )
        back = self.return_hop(plan.stages[-1].device)
        busy = busy_seconds(stages, back)
        disks = (seconds for use, seconds in busy.items() if use.way == DISK)
        way = sum(s.decode_seconds + s.hop_seconds for s in stages) + back.seconds
        decode = max((way, *disks))
        prefill = last_chunk_seconds(stages) + back.seconds
        return Estimate(
            stages=stages,
            back=back,
            decode_seconds=decode,
            prefill_seconds=prefill,
            bottleneck_seconds=max(busy.values()),
            workload=self.workload,
            memory_bytes=self.memory_bytes(plan),
            loss=sum(self.loss(i, scheme) for i, scheme in enumerate(plan.schemes)),
            decode_error=self._error(plan, self.decode_seconds, True, decode),
            prefill_error=self._error(plan, self.prefill_seconds, False, prefill),
        )

    def _error(
        self, plan: Plan, seconds: Callable[[int, str, str], float], decode: bool, whole: float
    ) -> float | None:
        """The relative error to expect of the whole seconds, of which steps, links and disks are
        taken to be right."""
        alike: dict[Key, float] = {}
        for stage in plan.stages:
            kind = self.cluster.device(stage.device).kind
            for i, scheme in enumerate(stage.schemes, start=stage.start):
                decodes = decode or self.model.layers[i].kind is LayerKind.HEAD
                key = kind, self._timed_class(i), scheme, decodes
                alike[key] = alike.get(key, 0.0) + seconds(i, stage.device, scheme)
        return self.profile.expected_error(alike, whole)

    def _stage(self, before: Stage | None, stage: Stage) -> StageEstimate:
        layers = list(zip(range(stage.start, stage.end), stage.schemes, strict=True))
        step, name = self.step_seconds(stage.device), stage.device

        def arrive(tokens: int) -> Hop:
            if before is None:
                return self.entry_hop(name, tokens)
            return self.activation_hop(before.device, name, tokens)

        rate = self.disk_rate(name) if stage.streamed else math.inf
        reads = [count / rate for count in streamed_bytes(self.model, stage)]
        token = [self.decode_seconds(i, name, scheme) for i, scheme in layers]
        chunks = zip(*(self.chunk_seconds(i, name, scheme) for i, scheme in layers), strict=True)
        return StageEstimate(
            stage=stage,
            decode_seconds=step + overlapped_seconds(token, reads),
            chunk_seconds=tuple(step + overlapped_seconds(x, reads) for x in chunks),
            hop=arrive(1),
            chunk_hops=tuple(arrive(tokens) for tokens in self.chunks),
            read_seconds=sum(reads),
            trip_seconds=sum(self.trip_seconds(i, name) for i, _ in layers),
        )
