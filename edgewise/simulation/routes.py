"""The way of a token through a plan, and its seconds on each part of it, asked of the cost model.

Parts alternate: the way in, stage 0, the link to stage 1, stage 1, ..., the way back to the source.
A link is busy for as long as its bytes occupy it, and delays what it carries (clusters.Link).
Neighbouring stages on one device have a link from the device to itself, which costs nothing.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import pairwise

from edgewise.costs import CostModel
from edgewise.estimates import Hop
from edgewise.plans import Plan, Stage
from edgewise.simulation.trace import Resource


@dataclass(frozen=True, slots=True)
class Part:
    """One part of the way: who does it, and what it is called in a trace."""

    resource: Resource
    name: str


@dataclass(frozen=True, slots=True)
class LaneWork:
    """What a lane carries: `sequences` requests of up to `prompt_tokens` and `new_tokens` each.

    The cost model's workload for it: all prompts count as the longest, and every new token costs
    what the middle one does.
    """

    sequences: int
    prompt_tokens: int
    new_tokens: int


@dataclass(frozen=True, slots=True)
class StepTimes:
    """Seconds that each part of the route is busy: with each chunk of the prompts, the last one
    bringing the first token, and with each later token. What leaves a part arrives at the next one
    after `delays`."""

    chunks: tuple[tuple[float, ...], ...]
    decode: tuple[float, ...]
    delays: tuple[float, ...]


def route(plan: Plan, source: str) -> tuple[Part, ...]:
    """The parts of a token's way, in order."""
    first, last = plan.stages[0].device, plan.stages[-1].device
    parts = [_link(source if first != source else "", first)]
    for stage, after in pairwise(plan.stages):
        parts += [_compute(stage), _link(stage.device, after.device)]
    return (*parts, _compute(plan.stages[-1]), _link(last, source if last != source else ""))


def _compute(stage: Stage) -> Part:
    return Part(Resource(stage.device), f"layers {stage.start}-{stage.end - 1}")


def _link(device: str, target: str) -> Part:
    resource = Resource(device, target)
    return Part(resource, str(resource))


def step_times(costs: CostModel, plan: Plan, work: LaneWork) -> StepTimes:
    """Seconds of each part of `route`, as the cost model has them for `work`."""
    lanes = costs.workload.micro_batches  # by which devices wait for their next step, or never do
    workload = replace(
        costs.workload,
        prompt_tokens=work.prompt_tokens,
        new_tokens=work.new_tokens,
        sequences=work.sequences * lanes,
    )
    costs = replace(costs, workload=workload)
    estimate, count = costs.estimate(plan), len(costs.chunks)
    stages, back = estimate.stages, estimate.back
    chunks = (
        _alternate([s.chunk_hops[c] for s in stages], [s.chunk_seconds[c] for s in stages], back)
        for c in range(count)
    )
    delays = [seconds for s in stages for seconds in (s.hop.delay_seconds, 0.0)]
    return StepTimes(
        tuple(chunks),
        _alternate([s.hop for s in stages], [s.decode_seconds for s in stages], back),
        (*delays, back.delay_seconds),
    )


def _alternate(hops: Sequence[Hop], stages: Sequence[float], back: Hop) -> tuple[float, ...]:
    pairs = zip((hop.occupancy_seconds for hop in hops), stages, strict=True)
    return (*(seconds for pair in pairs for seconds in pair), back.occupancy_seconds)
