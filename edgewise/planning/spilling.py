"""Which of a plan's layers live on disk: no more than memory has no room for."""

from collections.abc import Sequence
from dataclasses import replace

from edgewise.costs import CostModel
from edgewise.memory import device_bytes
from edgewise.plans import Plan, Stage
from edgewise.streaming import BUFFERS, spread


def spilled(costs: CostModel, plan: Plan) -> Plan:
    """The same plan with as few blocks on the disks of its devices as let the rest fit in memory,
    evenly between the others; on devices without a disk, and too small ones, it fits no better."""
    stages = list(plan.stages)
    for name in plan.devices:
        own = [number for number, stage in enumerate(stages) if stage.device == name]
        fitting = _fitting(costs, name, [stages[number] for number in own])
        for number, stage in zip(own, fitting, strict=True):
            stages[number] = stage
    return replace(plan, stages=tuple(stages))


def _fitting(costs: CostModel, name: str, stages: Sequence[Stage]) -> list[Stage]:
    """A device's stages. An even number of layers streams best: each buffer then has its own, and
    no layer waits for the last one of the step before to have computed."""
    model, limit, last = costs.model, costs.memory_limit(name), costs.model.num_layers - 1
    blocks = [n for stage in stages for n in range(max(stage.start, 1), min(stage.end, last))]
    even = range(2 * BUFFERS, len(blocks) + 1, 2) if costs.disk_rate(name) else ()
    fitting = list(stages)
    for count in (0, *even, *([len(blocks)] if even else [])):
        chosen = spread(blocks, count)
        fitting = [
            replace(stage, streamed=tuple(n for n in chosen if stage.start <= n < stage.end))
            for stage in stages
        ]
        if device_bytes(model, fitting, costs.workload) <= limit:
            return fitting
    return fitting if even else list(stages)
