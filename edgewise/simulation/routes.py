"""The way of a token through a plan, and its seconds on each part of it, asked of the cost model.

Parts alternate: the way in, stage 0, the link to stage 1, stage 1, ..., the way back to the source.
A link is busy for as long as its bytes occupy it, and delays what it carries (clusters.Link).
Neighbouring stages on one device have a link from the device to itself, which costs nothing. Before
a link come the interfaces at its ends that have a rate: a message waits for each in turn, and for
the link, and then occupies them all at once.
"""

from collections.abc import Iterator
from dataclasses import dataclass, replace

from edgewise.costs import CostModel
from edgewise.estimates import Resource, Use, way
from edgewise.plans import Plan, Stage


@dataclass(frozen=True, slots=True)
class Part:
    """One part of the way: who does it, and what it is called in a trace. `at_once`: the next part
    begins together with it."""

    resource: Resource
    name: str
    at_once: bool


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


def route(costs: CostModel, plan: Plan) -> tuple[Part, ...]:
    """The parts of a token's way, in order."""
    estimate, stages = costs.estimate(plan), iter(plan.stages)
    uses = (*way(estimate.stages), *estimate.back.uses)
    return tuple(Part(use.resource, _name(use, stages), use.at_once) for use in uses)


def _name(use: Use, stages: Iterator[Stage]) -> str:
    if not use.resource.computes:
        return str(use.resource)
    stage = next(stages)
    return f"layers {stage.start}-{stage.end - 1}"


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
    estimate = costs.estimate(plan)
    back = estimate.back.uses
    decode = (*way(estimate.stages), *back)
    chunks = ((*way(estimate.stages, c), *back) for c in range(len(costs.chunks)))
    return StepTimes(
        tuple(tuple(use.seconds for use in uses) for uses in chunks),
        tuple(use.seconds for use in decode),
        tuple(use.delay_seconds for use in decode),
    )
