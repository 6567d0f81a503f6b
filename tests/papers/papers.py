"""EdgeShard's testbed (arXiv 2405.14371): the means of the profile that its scripts carry, and the
settings of the reproduction check, sections 1.7 and 1.10 of the notes."""

from edgewise.clusters import Cluster, Device, Link
from edgewise.costs import CostModel
from edgewise.memory import workspace_bytes
from edgewise.planning import Objective, Problem
from edgewise.profiles import DeviceReading, LayerTiming, Profile
from edgewise.specs import LayerKind, LayerSpec, ModelSpec, Workload
from tests.kinds import DECODER_KINDS

GIB = 2**30
MILLISECONDS = {  # embedding, decoder block, norm and head
    "nx": (0.476, 6.019, 5.482),
    "agx": (0.627, 5.277, 4.482),
    "rtx": (0.077, 0.792, 0.648),
}
MEMORY_GIB = {"nx": 14, "agx": 29, "rtx": 22}
HOP_SECONDS = 2.1e-3
WORK = Workload(prompt_tokens=32, new_tokens=96)
TABLE = (32000, 4096)
BLOCK = LayerSpec(LayerKind.BLOCK, ((11008, 4096),) * 3 + ((4096, 4096),) * 4, 2 * 4096)


def llama_7b(blocks: int = 32) -> ModelSpec:
    """Without a cache, as in the scripts."""
    layers = (
        LayerSpec(LayerKind.EMBEDDING, (TABLE,), 0),
        *[BLOCK] * blocks,
        LayerSpec(LayerKind.HEAD, (TABLE,), 4096),
    )
    return ModelSpec("llama-2-7b", layers, 4096, 32000, 4096, tied=False)


def testbed(
    cloud_mbps: float,
    source: str = "agx-1",
    *,
    blocks: int = 32,
    agx: int = 12,
    objective: Objective = Objective.LATENCY,
    micro_batches: int = 1,
) -> Problem:
    """12 AGX Orin, 2 Orin NX and an RTX 3090, at 50 Mbps but for the source and the cloud."""
    model = llama_7b(blocks)
    names = [f"agx-{n}" for n in range(1, agx + 1)] + ["nx-1", "nx-2", "rtx"]
    kinds = {name: name.split("-")[0] for name in names}
    work = Workload(32, 96, micro_batches, micro_batches)
    middle = work.prompt_tokens + work.new_tokens // 2
    timings = tuple(
        LayerTiming(kind, layer, "fp32", 1, tokens, context, ms / 1e3)
        for kind, values in MILLISECONDS.items()
        for layer, ms in zip(DECODER_KINDS, values, strict=True)
        for tokens, context in ((1, middle), (32, 0))
    )
    links = tuple(
        Link(a, b, 1e6 / 8 * (cloud_mbps if {a, b} == {source, "rtx"} else 50), HOP_SECONDS)
        for a in names
        for b in names
        if a != b
    )
    readings = tuple(DeviceReading(kind, 0.0) for kind in MILLISECONDS)
    profile = Profile(model.digest, timings, readings, links)
    spare = workspace_bytes(model, work)
    devices = tuple(
        Device(name, MEMORY_GIB[kinds[name]] * GIB + spare, kind=kinds[name]) for name in names
    )
    costs = CostModel(model, Cluster(devices, (), source), profile, work)
    return Problem(costs, ("fp32",), objective)
