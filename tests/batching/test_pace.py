"""What the cost model says of a plan, as policies use it."""

from dataclasses import replace

import pytest

from edgewise.batching.pace import Pace, pace_of, plan_quality
from edgewise.costs import CostModel
from edgewise.planning import PLANNERS, Problem
from edgewise.sensitivities import Sensitivity
from edgewise.simulation import SHAPES, load_testbed
from edgewise.specs import Workload

MODEL = SHAPES[0]
WORK = Workload(64, 64, sequences=6, micro_batches=2)


@pytest.fixture(scope="module")
def costs():
    cluster, profile = load_testbed("edgeshard", MODEL, schemes=("fp32", "q4g64"))
    return CostModel(MODEL, cluster, profile, WORK)


@pytest.fixture(scope="module")
def plan(costs):
    return PLANNERS["edgeshard"](Problem(costs)).plan


def in_scheme(plan, scheme):
    stages = tuple(replace(x, schemes=(scheme,) * len(x.schemes)) for x in plan.stages)
    return replace(plan, stages=stages)


def test_rounds_are_the_cost_models_and_never_fall(costs, plan):
    rounds = pace_of(costs, plan).round_seconds
    assert len(rounds) == WORK.sequences + 1
    assert list(rounds) == sorted(rounds)
    one = replace(costs, workload=Workload(64, 64)).estimate(plan)
    assert rounds[1] == one.decode_seconds
    assert rounds[6] == costs.estimate(plan).round_seconds()


def test_prompts_are_the_cost_models(costs, plan):
    pace = pace_of(costs, plan)
    for tokens in (16, 300):
        alone = replace(costs, workload=Workload(tokens, 64)).estimate(plan)
        assert pace.prompt_seconds(tokens) == alone.prefill_seconds
    whole = pace.piece_seconds(0, 256) + pace.piece_seconds(256, 300)
    assert whole == pytest.approx(pace.prompt_seconds(300))


def test_all_of_a_slower_pace_is_slower():
    pace = Pace((0.0, 1.0, 1.5), lambda tokens: 0.1 * tokens, 0.9).times(2.0)
    assert pace.round_seconds == (0.0, 2.0, 3.0)
    assert pace.prompt_seconds(5) == 1.0
    assert pace.quality == 0.9


@pytest.mark.parametrize(
    ("scheme", "added", "quality"),
    [
        ("stored", 0.0, 1.0),
        ("fp32", 0.0, 1.0),
        ("q4g64", None, None),
        ("q4g64", 0.001, 1 - 34 * 0.001 / 2.0),
        ("q4g64", 1.0, 0.0),
    ],
)
def test_quality_is_what_is_left_of_the_models_own(costs, plan, scheme, added, quality):
    if added is not None:
        losses = {"q4g64": (added,) * MODEL.num_layers}
        costs = replace(costs, sensitivity=Sensitivity(MODEL.digest, "KL", 2.0, losses))
    keeps = plan_quality(costs, in_scheme(plan, scheme))
    assert keeps == (quality if quality is None else pytest.approx(quality))
