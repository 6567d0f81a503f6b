"""The way of a token through a plan, and its seconds on each part of it, asked of the cost model.

Parts alternate: the way in, stage 0, the link to stage 1, stage 1, ..., the way back to the source.
Neighbouring stages on one device have a link from the device to itself, which costs nothing.
"""

from dataclasses import dataclass, replace
from itertools import pairwise

from edgewise.costs import CostModel
from edgewise.plans import Plan, Stage
from edgewise.simulation.trace import Resource
from edgewise.specs import Workload


@dataclass(frozen=True, slots=True)
class Part:
    """One part of the way: who does it, and what it is called in a trace."""

    resource: Resource
    name: str


@dataclass(frozen=True, slots=True)
class Shape:
    """What a lane carries: `sequences` requests of up to `prompt_tokens` and `new_tokens` each.

    The cost model's workload for it: all prompts count as the longest, and every new token costs
    what the middle one does.
    """

    sequences: int
    prompt_tokens: int
    new_tokens: int


@dataclass(frozen=True, slots=True)
class StepTimes:
    """Seconds on each part of the route: the prompts with the first token, and each later token."""

    prefill: tuple[float, ...]
    decode: tuple[float, ...]


def route(plan: Plan, source: str) -> tuple[Part, ...]:
    """The parts of a token's way, in order."""
    first, last = plan.stages[0].device, plan.stages[-1].device
    parts = [_hop(source if first != source else "", first)]
    for stage, after in pairwise(plan.stages):
        parts += [_compute(stage), _hop(stage.device, after.device)]
    return (*parts, _compute(plan.stages[-1]), _hop(last, source if last != source else ""))


def _compute(stage: Stage) -> Part:
    return Part(Resource(stage.device), f"layers {stage.start}-{stage.end - 1}")


def _hop(device: str, target: str) -> Part:
    resource = Resource(device, target)
    return Part(resource, str(resource))


def step_times(costs: CostModel, plan: Plan, shape: Shape) -> StepTimes:
    """Seconds of each part of `route`; their sums are the cost model's estimate for `shape`."""
    workload = Workload(shape.prompt_tokens, shape.new_tokens, shape.sequences)
    costs = replace(costs, workload=workload)
    estimate = costs.estimate(plan)
    entry, *hops = [found.hop_seconds for found in estimate.stages]
    prompt_hops = [costs.prompt_hop(a.device, b.device) for a, b in pairwise(plan.stages)]
    decoding = [found.decode_seconds for found in estimate.stages]
    prefilling = [found.prefill_seconds for found in estimate.stages]
    back = estimate.return_seconds
    return StepTimes(
        _alternate([entry, *prompt_hops], prefilling, back),
        _alternate([entry, *hops], decoding, back),
    )


def _alternate(hops: list[float], stages: list[float], back: float) -> tuple[float, ...]:
    pairs = zip(hops, stages, strict=True)
    return (*(seconds for pair in pairs for seconds in pair), back)
