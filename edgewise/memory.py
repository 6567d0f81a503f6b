"""Memory that layers, stages and steps take; costs.py holds it against what devices have."""

from collections.abc import Sequence

from edgewise.clusters import Cluster, fair_share
from edgewise.plans import Stage
from edgewise.profiles import Profile
from edgewise.schemes import get_scheme
from edgewise.specs import ACTIVATION_BYTES, ModelSpec, Workload
from edgewise.streaming import BUFFERS

HEADROOM = 0.1  # share of a machine's free memory that plans leave alone
PREFILL_CHUNK = 256  # tokens of a prompt that travel together
FILE_BYTES = 2**14  # of a layer's file beside its weights, at most: what it says of them, padding


def layer_bytes(model: ModelSpec, layer: int, scheme: str, workload: Workload) -> int:
    """Weights of one layer, its cache for the workload, and its room for adapters."""
    spec, stored = model.layers[layer], get_scheme(scheme)
    tokens = workload.context * workload.sequences * workload.streams
    cached = tokens * spec.cached_bytes(stored, workload.cache)
    return spec.weight_bytes(stored) + cached + workload.added_bytes(spec.kind)


def workspace_bytes(model: ModelSpec, workload: Workload) -> int:
    """Activations of one prefill chunk: the widest product twice, and four hidden states."""
    tokens = min(workload.prompt_tokens, PREFILL_CHUNK) * workload.batch * workload.streams
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
        total -= saved_bytes(model, stage)
    return total


def saved_bytes(model: ModelSpec, stage: Stage) -> int:
    """Memory that a stage takes less for its layers on disk, beside which it has buffers."""
    if not stage.streamed:
        return 0
    saved, sizes = 0, list[int]()
    for number in stage.streamed:
        layer, scheme = model.layers[number], get_scheme(stage.schemes[number - stage.start])
        saved += sum(layer.matrix_bytes(scheme, i) for i in range(len(layer.matrices)))
        sizes.append(layer.weight_bytes(scheme) + FILE_BYTES)
    return saved - max(sizes) * min(BUFFERS, len(sizes))


def limit_bytes(cluster: Cluster, profile: Profile, device: str) -> int:
    """Memory of a device for weights, cache and workspace: its cap, or its share of what its
    machine has free besides the processes of its devices, less headroom."""
    this = cluster.device(device)
    reading = profile.reading(this.kind)
    if not reading.free_bytes:
        return this.memory_bytes
    caps, free = [], reading.free_bytes
    for other in cluster.devices if reading.machine else (this,):
        beside = profile.reading(other.kind)
        if beside.machine == reading.machine:
            caps.append(other.memory_bytes)
            free -= beside.process_bytes
    return min(this.memory_bytes, fair_share(caps, max(round(free * (1 - HEADROOM)), 0)))
