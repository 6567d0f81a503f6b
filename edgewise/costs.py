"""THE cost model: the only place where seconds and bytes are added up.

Planners, the demo's table and the worker that refuses an oversized stage all ask here.

Decode time per token of a plan, at batch size one:

    entry hop + sum over stages (step overhead + layer times at the workload's middle context)
    + hops between devices + return hop of the sampled token to the source

Memory of a device: weights at their schemes + cache for the workload + workspace.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

from edgewise.errors import Infeasible
from edgewise.plans import Plan, Stage
from edgewise.profiles import Profile
from edgewise.schemes import get_scheme
from edgewise.specs import (
    ACTIVATION_BYTES,
    TOKEN_BYTES,
    Cluster,
    LayerKind,
    ModelSpec,
    Workload,
)
from edgewise.units import format_bytes

PREFILL_CHUNK = 256  # tokens of a prompt that travel together


@dataclass(frozen=True, slots=True)
class StageEstimate:
    """One stage: its device, its layers, how long it computes and how long its input travels."""

    stage: Stage
    decode_seconds: float
    prefill_seconds: float
    hop_seconds: float


@dataclass(frozen=True, slots=True)
class Estimate:
    """What the cost model says a plan will do. `decode_seconds` is per token."""

    stages: tuple[StageEstimate, ...]
    return_seconds: float
    decode_seconds: float
    prefill_seconds: float
    memory_bytes: dict[str, int]


def layer_bytes(model: ModelSpec, layer: int, scheme: str, workload: Workload) -> int:
    """Weights of one layer plus its cache for the workload."""
    spec, stored = model.layers[layer], get_scheme(scheme)
    cache = 0
    if spec.kind is LayerKind.BLOCK:
        tokens = workload.context * workload.sequences
        cache = tokens * model.kv_width * stored.compute_bytes
    return spec.weight_bytes(stored) + cache


def workspace_bytes(model: ModelSpec, workload: Workload) -> int:
    """Activations of one prefill chunk: the widest product twice, and four hidden states."""
    tokens = min(workload.prompt_tokens, PREFILL_CHUNK)
    widest = max(rows for spec in model.layers[1:-1] for rows, _ in spec.matrices)
    return ACTIVATION_BYTES * (tokens * (2 * widest + 4 * model.hidden_size) + model.vocab_size)


def device_bytes(model: ModelSpec, stages: Sequence[Stage], workload: Workload) -> int:
    """Memory that these stages take together on one device."""
    total = workspace_bytes(model, workload)
    for stage in stages:
        for number, scheme in zip(range(stage.start, stage.end), stage.schemes, strict=True):
            total += layer_bytes(model, number, scheme, workload)
        whole = stage.end - stage.start == model.num_layers
        if model.tied and whole and stage.schemes[0] == stage.schemes[-1]:
            rows, columns = model.layers[0].matrices[0]
            total -= get_scheme(stage.schemes[0]).matrix_bytes(rows, columns)
    return total


@dataclass(frozen=True, slots=True)
class CostModel:
    """Answers what things cost for one model, cluster, profile and workload."""

    model: ModelSpec
    cluster: Cluster
    profile: Profile
    workload: Workload

    def decode_seconds(self, layer: int, device: str, scheme: str) -> float:
        """One layer, one token, at the middle of the answer (LLM-PQ evaluates decoding there)."""
        middle = self.workload.prompt_tokens + self.workload.new_tokens // 2
        kind = self.model.layers[layer].kind
        return self.profile.decode_seconds(device, kind, scheme, middle)

    def prefill_seconds(self, layer: int, device: str, scheme: str) -> float:
        """One layer, the whole prompt."""
        kind, tokens = self.model.layers[layer].kind, self.workload.prompt_tokens
        if kind is LayerKind.HEAD:  # only the last position's logits are needed
            return self.profile.decode_seconds(device, kind, scheme, tokens)
        return self.profile.prefill_seconds(device, kind, scheme, tokens)

    def hop_seconds(self, source: str, target: str, count: int) -> float:
        """`count` bytes from one device to another; infinite where nothing connects them."""
        link = self.profile.link(source, target)
        return float("inf") if link is None else link.seconds(count)

    def activation_hop(self, source: str, target: str) -> float:
        """One token's hidden states; stages that follow each other on one device pay nothing."""
        if source == target:
            return 0.0
        return self.hop_seconds(source, target, self.model.hidden_size * ACTIVATION_BYTES)

    def enter_seconds(self, source: str, target: str) -> float:
        """What it costs a token to go on at `target`: the hop, and another step there."""
        if source == target:
            return 0.0
        return self.activation_hop(source, target) + self.profile.step_seconds(target)

    def token_hop(self, source: str, target: str) -> float:
        """One token id. From the source to itself it still costs the way into the worker."""
        return self.hop_seconds(source, target, TOKEN_BYTES)

    def layer_bytes(self, layer: int, scheme: str) -> int:
        return layer_bytes(self.model, layer, scheme, self.workload)

    def capacity_bytes(self, device: str) -> int:
        """Memory of a device that is left for layers."""
        total = self.cluster.device(device).memory_bytes
        return total - workspace_bytes(self.model, self.workload)

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
            has = self.cluster.device(name).memory_bytes
            if needed > has:
                raise Infeasible(
                    f"device '{name}' has {format_bytes(has)} but would need "
                    f"{format_bytes(needed)}: {format_bytes(needed - has)} too little",
                    shortage_bytes=needed - has,
                )

    def estimate(self, plan: Plan) -> Estimate:
        """Predict a plan's times and memory. Raises ProfileError where a timing is missing."""
        source = self.cluster.source
        stages: list[StageEstimate] = []
        for stage in plan.stages:
            layers = list(zip(range(stage.start, stage.end), stage.schemes, strict=True))
            if stages:
                hop = self.activation_hop(stages[-1].stage.device, stage.device)
            else:
                hop = self.token_hop(source, stage.device)
            step = self.profile.step_seconds(stage.device)
            decode = step + sum(self.decode_seconds(i, stage.device, s) for i, s in layers)
            prefill = step + sum(self.prefill_seconds(i, stage.device, s) for i, s in layers)
            stages.append(StageEstimate(stage, decode, prefill, hop))
        back = self.token_hop(plan.stages[-1].device, source)
        return Estimate(
            stages=tuple(stages),
            return_seconds=back,
            decode_seconds=sum(s.decode_seconds + s.hop_seconds for s in stages) + back,
            prefill_seconds=sum(s.prefill_seconds for s in stages) + self._prompt_hops(plan) + back,
            memory_bytes=self.memory_bytes(plan),
        )

    def _prompt_hops(self, plan: Plan) -> float:
        count = self.workload.prompt_tokens * self.model.hidden_size * ACTIVATION_BYTES
        devices = [stage.device for stage in plan.stages]
        entry = self.token_hop(self.cluster.source, devices[0])
        hops = (self.hop_seconds(a, b, count) for a, b in pairwise(devices) if a != b)
        return entry + sum(hops)
