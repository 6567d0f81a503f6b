"""What the cost model says a plan takes for requests that are answered together."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cache
from itertools import accumulate

from edgewise.costs import CostModel
from edgewise.plans import Plan
from edgewise.schemes import Family, get_scheme
from edgewise.specs import ModelSpec


@dataclass(frozen=True, slots=True)
class Pace:
    """`prompt_seconds` of a prompt of so many tokens; `round_seconds[b]` until each of b requests
    has its next token, not falling. `quality` is 1 less the share of the model's own loss that the
    plan adds, None where nobody measured it."""

    round_seconds: tuple[float, ...]
    prompt_seconds: Callable[[int], float]
    quality: float | None = None

    def times(self, slowness: float) -> "Pace":
        """The same, everything taking so many times as long."""
        rounds = tuple(slowness * seconds for seconds in self.round_seconds)
        return replace(
            self, round_seconds=rounds, prompt_seconds=lambda n: slowness * self.prompt_seconds(n)
        )

    def piece_seconds(self, start: int, end: int) -> float:
        """Of a prompt, its tokens [start, end)."""
        before = self.prompt_seconds(start) if start else 0.0
        return max(self.prompt_seconds(end) - before, 0.0)


def pace_of(costs: CostModel, plan: Plan) -> Pace:
    """For up to as many requests at a time as the workload has sequences. Raises ProfileError for
    a missing timing."""
    work = costs.workload

    def round_seconds(requests: int) -> float:
        lanes = min(work.micro_batches, requests)
        asked = replace(work, sequences=requests, micro_batches=lanes)
        return replace(costs, workload=asked).estimate(plan).round_seconds()

    @cache
    def prompt_seconds(tokens: int) -> float:
        asked = replace(work, prompt_tokens=tokens, sequences=1, micro_batches=1)
        return replace(costs, workload=asked).estimate(plan).prefill_seconds

    rounds = accumulate(map(round_seconds, range(1, work.sequences + 1)), max)
    return Pace((0.0, *rounds), prompt_seconds, plan_quality(costs, plan))


def plan_quality(costs: CostModel, plan: Plan) -> float | None:
    """1 less the share of the model's own loss that a plan is predicted to add; None where nobody
    knows. DFTSP's f (arXiv 2405.07140): it falls as a scheme's loss grows."""
    if all(_keeps_all(costs.model, i, scheme) for i, scheme in enumerate(plan.schemes)):
        return 1.0
    if costs.sensitivity is None:
        return None
    added = sum(costs.loss(i, scheme) for i, scheme in enumerate(plan.schemes))
    return max(1 - added / costs.sensitivity.reference, 0.0)


def _keeps_all(model: ModelSpec, layer: int, scheme: str) -> bool:
    """Whether a layer in a scheme has the numbers that its checkpoint has."""
    spec = model.layers[layer]
    as_stored = get_scheme(scheme).family is Family.STORED
    return as_stored or (not spec.stored and scheme in ("fp32", spec.compute))
