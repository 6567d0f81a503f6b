"""Plans whose seconds are chosen by hand: a block per device, costs as small whole numbers."""

import math
from collections.abc import Sequence
from itertools import pairwise

from edgewise.clusters import Cluster, Device, Link
from edgewise.costs import CostModel
from edgewise.plans import Plan, Stage
from edgewise.profiles import DeviceReading, LayerTiming, Profile
from edgewise.specs import ACTIVATION_BYTES, LayerKind, LayerSpec, ModelSpec, Workload

HIDDEN = 8


def small_model(blocks: int) -> ModelSpec:
    block = LayerSpec(LayerKind.BLOCK, ((HIDDEN, HIDDEN),), 0, kv_width=2 * HIDDEN)
    table = ((16, HIDDEN),)
    layers = (LayerSpec(LayerKind.EMBEDDING, table, 0), *[block] * blocks)
    layers = (*layers, LayerSpec(LayerKind.HEAD, table, 0))
    return ModelSpec("small", layers, HIDDEN, 16, 4096, False)


def timings(device: str, block: float, per_prompt_token: float) -> list[LayerTiming]:
    """Blocks take `block` seconds per token, whatever the context and the batch, and a prompt
    `per_prompt_token` seconds per token more. Embedding and head are free."""
    measured = []
    for kind, seconds in (
        (LayerKind.EMBEDDING, 0.0),
        (LayerKind.HEAD, 0.0),
        (LayerKind.BLOCK, block),
    ):
        extra = per_prompt_token if kind is LayerKind.BLOCK else 0.0
        for sequences in (1, 4):
            for context in (0, 512):
                measured.append(LayerTiming(device, kind, "fp32", sequences, 1, context, seconds))
            for tokens in (2, 4, 8):
                whole = seconds + sequences * tokens * extra
                measured.append(LayerTiming(device, kind, "fp32", sequences, tokens, 0, whole))
    return measured


def chain(
    stages: Sequence[float],
    hops: Sequence[float],
    *,
    busy: Sequence[float] = (),
    back: float = 0.0,
    lanes: int = 1,
    size: int = 1,
    per_prompt_token: float = 0.0,
    revisit: bool = False,
) -> tuple[CostModel, Plan]:
    """Device i computes one block in `stages[i]` seconds and sends it on; it arrives after
    `hops[i]` seconds, in which the link may carry others, and `busy[i]` in which it may not. The
    token returns in `back`. With `revisit` the first device also runs the last block."""
    names = [f"d{i}" for i in range(len(stages))]
    order = [*names, names[0]] if revisit else names
    delays = [*hops, back] if revisit else [*hops]
    occupied = busy or [0.0] * len(delays)
    token = size * HIDDEN * ACTIVATION_BYTES
    links = [
        Link(a, b, token / seconds if seconds else math.inf, delay)
        for (a, b), delay, seconds in zip(pairwise(order), delays, occupied, strict=True)
    ]
    if not revisit and len(names) > 1:
        links.append(Link(names[-1], names[0], latency_seconds=back))
    cluster = Cluster(tuple(Device(name, 10**9) for name in names), tuple(links), names[0])
    model = small_model(len(order))
    layers = tuple(
        timing
        for name, block in zip(names, stages, strict=True)
        for timing in timings(name, block, per_prompt_token)
    )
    readings = tuple(DeviceReading(name, 0.0) for name in names)
    profile = Profile(model.digest, layers, readings, ())
    costs = CostModel(model, cluster, profile, Workload(4, 8, lanes * size, lanes))
    return costs, spread(model, order)


def spread(model: ModelSpec, devices: Sequence[str]) -> Plan:
    """A block on each device; embedding and head go with the first and the last."""
    stages = []
    for i, name in enumerate(devices):
        start, end = (0 if i == 0 else i + 1), i + 2 + (i == len(devices) - 1)
        stages.append(Stage(name, start, end, ("fp32",) * (end - start)))
    return Plan(model.name, model.digest, model.num_layers, tuple(stages))
