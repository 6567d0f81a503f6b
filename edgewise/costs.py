"""THE cost model: the only place where seconds and bytes are added up.

Planners, simulator, tables and the worker that refuses an oversized stage all ask here.

A lane's round trip, per token:

    entry hop + sum over stages (step overhead + layer times at the workload's middle context)
    + hops between devices + return hop of the sampled token to the source

With Q micro-batches in flight and no barrier between tokens, a token of every sequence takes
max(round trip, Q * bottleneck); with a barrier ("bubbles") round trip + (Q - 1) * bottleneck. The
bottleneck is the busiest device or hop: computing and sending overlap (EdgeShard, section 1.5-1.6
of the notes; PipeEdge).

Memory of a device: weights at their schemes + cache for the workload + workspace.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

from edgewise.clusters import Cluster
from edgewise.errors import Infeasible
from edgewise.plans import Plan, Stage
from edgewise.profiles import Profile
from edgewise.schemes import get_scheme
from edgewise.sensitivities import Sensitivity
from edgewise.specs import (
    ACTIVATION_BYTES,
    TOKEN_BYTES,
    LayerKind,
    ModelSpec,
    Workload,
)
from edgewise.units import format_bytes

PREFILL_CHUNK = 256  # tokens of a prompt that travel together
HEADROOM = 0.1  # share of a machine's free memory that plans leave alone


@dataclass(frozen=True, slots=True)
class StageEstimate:
    """One stage: how long it computes per token and for the prompt, and how long its input takes
    to arrive per token."""

    stage: Stage
    decode_seconds: float
    prefill_seconds: float
    hop_seconds: float


@dataclass(frozen=True, slots=True)
class Estimate:
    """What the cost model says a plan will do.

    `decode_seconds` is a lane's round trip per token, `prefill_seconds` the time to its first
    token, `bottleneck_seconds` the busiest device or hop per round, `tokens_per_second` of all
    sequences together without bubbles, `loss` the predicted loss of quality.
    """

    stages: tuple[StageEstimate, ...]
    return_seconds: float
    decode_seconds: float
    prefill_seconds: float
    bottleneck_seconds: float
    workload: Workload
    memory_bytes: dict[str, int]
    loss: float

    def round_seconds(self, *, bubbles: bool = False) -> float:
        """Time in which every sequence gets one token."""
        others = self.workload.micro_batches - 1
        if bubbles:
            return self.decode_seconds + others * self.bottleneck_seconds
        return max(self.decode_seconds, (others + 1) * self.bottleneck_seconds)

    @property
    def tokens_per_second(self) -> float:
        return self.workload.sequences / self.round_seconds()


def layer_bytes(model: ModelSpec, layer: int, scheme: str, workload: Workload) -> int:
    """Weights of one layer plus its cache for the workload."""
    spec, stored = model.layers[layer], get_scheme(scheme)
    cache = 0
    if spec.kind is LayerKind.BLOCK:
        tokens = workload.context * workload.sequences
        cache = tokens * model.cached_bytes(stored, workload.cache)
    return spec.weight_bytes(stored) + cache


def workspace_bytes(model: ModelSpec, workload: Workload) -> int:
    """Activations of one prefill chunk: the widest product twice, and four hidden states."""
    tokens = min(workload.prompt_tokens, PREFILL_CHUNK) * workload.batch
    widest = max(rows for spec in model.layers[1:-1] for rows, _ in spec.matrices)
    per_token = 2 * widest + 4 * model.hidden_size
    return ACTIVATION_BYTES * (tokens * per_token + workload.batch * model.vocab_size)


def device_bytes(model: ModelSpec, stages: Sequence[Stage], workload: Workload) -> int:
    """Memory that these stages take together on one device."""
    total = workspace_bytes(model, workload)
    for stage in stages:
        for number, scheme in zip(range(stage.start, stage.end), stage.schemes, strict=True):
            total += layer_bytes(model, number, scheme, workload)
        if stage.end - stage.start == model.num_layers:
            total -= model.shared_bytes(stage.schemes)
    return total


@dataclass(frozen=True, slots=True)
class CostModel:
    """Answers what things cost for one model, cluster, profile and workload."""

    model: ModelSpec
    cluster: Cluster
    profile: Profile
    workload: Workload
    sensitivity: Sensitivity | None = None

    def decode_seconds(self, layer: int, device: str, scheme: str) -> float:
        """One layer, one token of each sequence of a lane, midway through the answer (LLM-PQ)."""
        middle = self.workload.prompt_tokens + self.workload.new_tokens // 2
        kind, on = self.model.layers[layer].kind, self.cluster.device(device).kind
        return self.profile.decode_seconds(on, kind, scheme, middle, self.workload.batch)

    def prefill_seconds(self, layer: int, device: str, scheme: str) -> float:
        """One layer, the whole prompts of a lane."""
        work, kind = self.workload, self.model.layers[layer].kind
        on = self.cluster.device(device).kind
        if kind is LayerKind.HEAD:  # only the last position's logits are needed
            return self.profile.decode_seconds(on, kind, scheme, work.prompt_tokens, work.batch)
        return self.profile.prefill_seconds(on, kind, scheme, work.prompt_tokens, work.batch)

    def step_seconds(self, device: str) -> float:
        """What a step costs a device besides its layers."""
        return self.profile.reading(self.cluster.device(device).kind).step_seconds

    def hop_seconds(self, source: str, target: str, count: int) -> float:
        """`count` bytes from one device to another, as measured, else as the cluster file says;
        infinite where nothing connects them."""
        link = self.profile.link(source, target) or self.cluster.link(source, target)
        return float("inf") if link is None else link.seconds(count)

    def activation_hop(self, source: str, target: str) -> float:
        """A lane's hidden states of one token; stages that follow each other on one device pay
        nothing."""
        if source == target:
            return 0.0
        count = self.workload.batch * self.model.hidden_size * ACTIVATION_BYTES
        return self.hop_seconds(source, target, count)

    def enter_seconds(self, source: str, target: str) -> float:
        """What it costs a token to go on at `target`: the hop, and another step there."""
        if source == target:
            return 0.0
        return self.activation_hop(source, target) + self.step_seconds(target)

    def token_hop(self, source: str, target: str) -> float:
        """A lane's token ids. From the source to itself it still costs the way into the worker."""
        return self.hop_seconds(source, target, self.workload.batch * TOKEN_BYTES)

    def prompt_hop(self, source: str, target: str) -> float:
        """The hidden states of a lane's whole prompts."""
        if source == target:
            return 0.0
        tokens = self.workload.prompt_tokens * self.workload.batch
        return self.hop_seconds(source, target, tokens * self.model.hidden_size * ACTIVATION_BYTES)

    def layer_bytes(self, layer: int, scheme: str) -> int:
        return layer_bytes(self.model, layer, scheme, self.workload)

    def loss(self, layer: int, scheme: str) -> float:
        """Predicted loss of quality when one layer takes a scheme; none is known to be free."""
        if self.sensitivity is None:
            return 0.0
        values = self.sensitivity.losses.get(scheme)
        return float("inf") if values is None else values[layer]

    def memory_limit(self, device: str) -> int:
        """Memory of a device: its cap, or its share of what its machine has free, less headroom."""
        cap = self.cluster.device(device).memory_bytes
        machine, free = self._machine(device)
        if not free:
            return cap
        names = (
            [device]
            if not machine
            else [
                other.name
                for other in self.cluster.devices
                if self._machine(other.name)[0] == machine
            ]
        )
        caps = [self.cluster.device(name).memory_bytes for name in names]
        return min(cap, fair_share(caps, round(free * (1 - HEADROOM))))

    def _machine(self, device: str) -> tuple[str, int]:
        """The machine that a device was measured on, "" where that is not known, and the memory
        that it had free."""
        reading = self.profile.reading(self.cluster.device(device).kind)
        return reading.machine, reading.free_bytes

    def capacity_bytes(self, device: str) -> int:
        """Memory of a device that is left for layers."""
        return self.memory_limit(device) - workspace_bytes(self.model, self.workload)

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
                    f"device '{name}' has {format_bytes(has)} but would need "
                    f"{format_bytes(needed)}: {format_bytes(needed - has)} too little",
                    shortage_bytes=needed - has,
                )

    def estimate(self, plan: Plan) -> Estimate:
        """Predict a plan's times, memory and loss. Raises ProfileError for a missing timing."""
        stages = tuple(
            self._stage(before, stage) for before, stage in pairwise((None, *plan.stages)) if stage
        )
        ends = plan.stages[0].device, plan.stages[-1].device
        back = self.token_hop(ends[1], self.cluster.source)
        prompt_hops = sum(self.prompt_hop(a.device, b.device) for a, b in pairwise(plan.stages))
        entry = stages[0].hop_seconds
        return Estimate(
            stages=stages,
            return_seconds=back,
            decode_seconds=sum(s.decode_seconds + s.hop_seconds for s in stages) + back,
            prefill_seconds=entry + sum(s.prefill_seconds for s in stages) + prompt_hops + back,
            bottleneck_seconds=_bottleneck(stages),
            workload=self.workload,
            memory_bytes=self.memory_bytes(plan),
            loss=sum(self.loss(i, scheme) for i, scheme in enumerate(plan.schemes)),
        )

    def _stage(self, before: Stage | None, stage: Stage) -> StageEstimate:
        layers = list(zip(range(stage.start, stage.end), stage.schemes, strict=True))
        step, name = self.step_seconds(stage.device), stage.device
        if before is None:
            hop = self.token_hop(self.cluster.source, name)
        else:
            hop = self.activation_hop(before.device, name)
        decode = step + sum(self.decode_seconds(i, name, scheme) for i, scheme in layers)
        prefill = step + sum(self.prefill_seconds(i, name, scheme) for i, scheme in layers)
        return StageEstimate(stage, decode, prefill, hop)


def fair_share(caps: Sequence[int], free: int) -> int:
    """The most that each of several devices may take of `free` bytes they have in common: those
    whose caps are lower take those, and the others share the rest evenly."""
    left = free
    for number, cap in enumerate(sorted(caps)):
        share = left // (len(caps) - number)
        if cap > share:
            return share
        left -= cap
    return max(caps)


def _bottleneck(stages: Sequence[StageEstimate]) -> float:
    """The busiest device, all its stages together, or the slowest hop between devices."""
    busy: dict[str, float] = {}
    for found in stages:
        name = found.stage.device
        busy[name] = busy.get(name, 0.0) + found.decode_seconds
    return max(*busy.values(), *(found.hop_seconds for found in stages[1:]), 0.0)
