"""The simulator against closed forms: the cost model, and section 1.6 of the planning notes."""

import math
from collections.abc import Sequence
from dataclasses import replace
from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edgewise.clusters import Cluster, Network
from edgewise.costs import CostModel
from edgewise.errors import ClusterError, PlanError
from edgewise.estimates import Resource
from edgewise.plans import Plan, Stage
from edgewise.simulation import Arrival, Jitter, poisson, simulate_plan, together
from edgewise.simulation.testbeds import LLAMA2_7B, load_testbed
from edgewise.specs import LayerKind, Workload
from tests.simulation.chains import chain, spread

EXACT = 1e-9
seconds = st.integers(1, 9).map(lambda tenths: tenths / 10)
hops = st.integers(0, 9).map(lambda tenths: tenths / 10)


some_lanes = st.integers(1, 5)


@st.composite
def chains(draw, lanes=some_lanes, **fixed):
    stages = draw(st.lists(seconds, min_size=2, max_size=4))
    between = st.lists(hops, min_size=len(stages) - 1, max_size=len(stages) - 1)
    busy = [] if fixed.get("revisit") else draw(between)
    return chain(stages, draw(between), busy=busy, back=draw(hops), lanes=draw(lanes), **fixed)


def slowest_part(made) -> float:
    """The longest that a device computes or a link is occupied, added up from what the chain was
    made of; latency occupies nothing."""
    costs, plan = made
    middle = 4 + 8 // 2
    computing = [
        costs.profile.decode_seconds(stage.device, LayerKind.BLOCK, "fp32", middle)
        for stage in plan.stages
    ]
    sent = costs.workload.batch * costs.model.hidden_size * 4
    return max(*computing, *(sent / link.bytes_per_second for link in costs.cluster.links))


@settings(max_examples=60, deadline=None)
@given(chains(lanes=st.just(1), per_prompt_token=0.01), st.integers(2, 900), st.integers(1, 20))
def test_one_request_takes_what_the_cost_model_says(made, prompt: int, new: int) -> None:
    costs, plan = made
    costs = CostModel(costs.model, costs.cluster, costs.profile, Workload(prompt, new))
    estimate = costs.estimate(plan)
    request = simulate_plan(costs, plan, [Arrival(3.0, prompt, new)]).requests[0]
    assert request.first_token_seconds == pytest.approx(estimate.prefill_seconds, abs=EXACT)
    expected = [3.0 + estimate.prefill_seconds + i * estimate.decode_seconds for i in range(new)]
    assert request.token_seconds == pytest.approx(expected, abs=EXACT)
    assert request.latency_seconds == request.finish_seconds - 3.0


@pytest.mark.parametrize("bubbles", [False, True])
def test_a_full_lane_takes_what_the_cost_model_says_about_its_batch(bubbles: bool) -> None:
    cluster, profile = load_testbed("home", LLAMA2_7B, schemes=("bf16",))
    costs = CostModel(LLAMA2_7B, cluster, profile, Workload(64, 16, sequences=4))
    names, cuts = ["laptop", "desktop", "jetson", "laptop"], (0, 4, 26, 33, 34)
    stages = tuple(
        Stage(name, start, end, ("bf16",) * (end - start))
        for name, (start, end) in zip(names, pairwise(cuts), strict=True)
    )
    plan = Plan(LLAMA2_7B.name, LLAMA2_7B.digest, LLAMA2_7B.num_layers, stages)
    estimate = costs.estimate(plan)
    outcome = simulate_plan(costs, plan, together(4, 64, 16), bubbles=bubbles)
    whole = estimate.prefill_seconds + 15 * estimate.decode_seconds
    assert outcome.makespan_seconds == pytest.approx(whole, abs=EXACT)
    assert outcome.tokens_per_second == pytest.approx(64 / whole)


@settings(max_examples=60, deadline=None)
@given(chains())
def test_a_round_with_bubbles_takes_the_sum_and_the_slowest_part_for_each_other_lane(made) -> None:
    """T_B = sum + (Q - 1) max, exactly, from the first round on: the prompts cost here what a token
    costs, and the barrier empties the pipeline before every round."""
    costs, plan = made
    lanes, estimate = costs.workload.micro_batches, costs.estimate(plan)
    outcome = simulate_plan(costs, plan, together(lanes, 1, 8), bubbles=True)
    period = estimate.decode_seconds + (lanes - 1) * slowest_part(made)
    ends = [max(r.token_seconds[i] for r in outcome.requests) for i in range(8)]
    assert ends == pytest.approx([(i + 1) * period for i in range(8)], abs=EXACT)
    assert period == pytest.approx(estimate.round_seconds(bubbles=True), abs=EXACT)


@settings(max_examples=60, deadline=None)
@given(chains())
def test_without_bubbles_every_token_follows_the_closed_form(made) -> None:
    """T_NB = max(sum, Q max). Where a first token costs what any token costs there is no transient
    at all: token k of lane l is back at sum + l max + k T_NB."""
    costs, plan = made
    lanes, estimate = costs.workload.micro_batches, costs.estimate(plan)
    slowest = slowest_part(made)
    period = max(estimate.decode_seconds, lanes * slowest)
    outcome = simulate_plan(costs, plan, together(lanes, 1, 8))
    for lane, request in enumerate(outcome.requests):
        start = estimate.decode_seconds + lane * slowest
        expected = [start + k * period for k in range(8)]
        assert request.token_seconds == pytest.approx(expected, abs=EXACT)
    assert period == pytest.approx(estimate.round_seconds(), abs=EXACT)


@settings(max_examples=40, deadline=None)
@given(chains(per_prompt_token=0.05))
def test_after_long_prompts_the_steady_state_is_reached_within_40_rounds(made) -> None:
    """Prompts leave the lanes unevenly spaced, so the closed form needs a transient: 40 rounds from
    the last lane's first token on are plenty for these sizes. Then every round is exact."""
    costs, plan = made
    lanes, new = costs.workload.micro_batches, 120
    costs = CostModel(costs.model, costs.cluster, costs.profile, Workload(8, new, lanes, lanes))
    estimate = costs.estimate(plan)
    period = max(estimate.decode_seconds, lanes * slowest_part(made))
    outcome = simulate_plan(costs, plan, together(lanes, 8, new))
    begun = max(request.token_seconds[0] for request in outcome.requests) + 40 * period
    for request in outcome.requests:
        late = [t for t in request.token_seconds if t > begun]
        ended = min(f.finish_seconds for f in outcome.requests)  # then a lane is missing
        gaps = [b - a for a, b in pairwise(late) if b <= ended]
        assert gaps == pytest.approx([period] * len(gaps), abs=EXACT)
    assert any(t > begun for t in outcome.requests[0].token_seconds)


@settings(max_examples=40, deadline=None)
@given(chains(revisit=True), st.booleans())
def test_a_device_visited_twice_never_beats_the_closed_form(made, bubbles: bool) -> None:
    """With two stages on one device, first come first served need not reach the closed form, but
    nothing can be faster than it."""
    costs, plan = made
    lanes, estimate = costs.workload.micro_batches, costs.estimate(plan)
    outcome = simulate_plan(costs, plan, together(lanes, 4, 12), bubbles=bubbles)
    work = 12 * max(estimate.decode_seconds, lanes * estimate.bottleneck_seconds)
    assert outcome.makespan_seconds >= work - EXACT


def hub(rates: Sequence[float], lanes: int = 1) -> tuple[CostModel, Plan]:
    """Out from 'd0' to 'd1', back, and out to 'd2', a block on each; 0.1 s to compute one, and
    interfaces of `rates` bytes per second. A token's hidden state is 32 bytes."""
    costs, _ = chain([0.1] * 4, [0.0] * 3, lanes=lanes, per_prompt_token=0.01)
    devices = tuple(
        replace(device, interface_bytes_per_second=rate)
        for device, rate in zip(costs.cluster.devices, rates, strict=False)
    )
    network = Network(tuple(device.name for device in devices), latency_seconds=0.02)
    costs = replace(costs, cluster=Cluster(devices, (), "d0", (network,)))
    return costs, spread(costs.model, ["d0", "d1", "d0", "d2"])


rates = st.lists(st.sampled_from([20.0, 80.0, 320.0, math.inf]), min_size=3, max_size=3)


@settings(max_examples=60, deadline=None)
@given(rates, st.integers(2, 900), st.integers(1, 5))
def test_one_request_waits_for_interfaces_as_the_cost_model_says(
    limits: list[float], prompt: int, new: int
) -> None:
    costs, plan = hub(limits)
    costs = replace(costs, workload=Workload(prompt, new))
    estimate = costs.estimate(plan)
    request = simulate_plan(costs, plan, [Arrival(0.0, prompt, new)]).requests[0]
    expected = [estimate.prefill_seconds + i * estimate.decode_seconds for i in range(new)]
    assert request.token_seconds == pytest.approx(expected, rel=EXACT)


@settings(max_examples=40, deadline=None)
@given(rates, some_lanes, st.booleans())
def test_no_interface_sends_more_than_it_can(
    limits: list[float], lanes: int, bubbles: bool
) -> None:
    costs, plan = hub(limits, lanes)
    estimate = costs.estimate(plan)
    outcome = simulate_plan(costs, plan, together(lanes, 4, 12), bubbles=bubbles)
    work = 12 * max(estimate.decode_seconds, lanes * estimate.bottleneck_seconds)
    assert outcome.makespan_seconds >= work * (1 - EXACT)


def test_hops_to_two_devices_share_an_interface_that_is_always_busy() -> None:
    """32 bytes at 32 bytes per second, twice a token: four lanes get one each in 8 s."""
    costs, plan = hub([32.0, math.inf, math.inf], lanes=4)
    assert costs.estimate(plan).round_seconds() == pytest.approx(8.0)
    outcome = simulate_plan(costs, plan, together(4, 1, 40))
    for request in outcome.requests:
        late = request.token_seconds[10:30]
        assert (late[-1] - late[0]) / 19 == pytest.approx(8.0, rel=0.02)
    busy = outcome.busy_seconds()
    assert busy[Resource("d0", way="out of")] == pytest.approx(4 * 40 * 2)
    assert busy[Resource("d0", "d1")] == pytest.approx(4 * 40)
    assert Resource("d1", way="into") not in busy
    assert "interface out of d0" in outcome.chrome_trace()


def test_requests_that_arrive_together_share_a_lane_and_others_wait() -> None:
    costs, plan = chain([1.0, 2.0], [0.5], back=0.5, lanes=1, size=2)
    outcome = simulate_plan(costs, plan, [*together(2, 4, 3), Arrival(1.0, 4, 3)])
    assert [r.finish_seconds for r in outcome.requests] == pytest.approx([12.0, 12.0, 24.0])
    assert outcome.requests[2].first_token_seconds == pytest.approx(15.0)
    assert outcome.utilisation() == pytest.approx({"d0": 6 / 24, "d1": 12 / 24})
    assert outcome.busy_seconds()[Resource("d0")] == pytest.approx(6.0)


def test_a_link_is_busy_with_bytes_and_not_with_latency() -> None:
    costs, plan = chain([1.0, 2.0], [0.5], busy=[0.25], back=0.5, lanes=2)
    outcome = simulate_plan(costs, plan, together(2, 1, 3))
    busy = outcome.busy_seconds()
    assert busy[Resource("d0", "d1")] == pytest.approx(2 * 3 * 0.25)
    assert Resource("d1", "d0") not in busy


def test_with_bubbles_requests_enter_at_the_barrier() -> None:
    costs, plan = chain([1.0, 1.0], [0.0], lanes=2)
    requests = [Arrival(0.0, 4, 3), Arrival(0.5, 4, 3)]
    outcome = simulate_plan(costs, plan, requests, bubbles=True)
    assert outcome.requests[0].token_seconds == pytest.approx([2.0, 4.0, 7.0])
    assert outcome.requests[1].token_seconds == pytest.approx([5.0, 8.0, 10.0])
    free = simulate_plan(costs, plan, requests)
    assert free.requests[1].token_seconds == pytest.approx([3.0, 5.0, 7.0])


def test_the_same_seed_gives_the_same_outcome_and_another_does_not() -> None:
    costs, plan = chain([0.3, 0.5, 0.2], [0.1, 0.1], back=0.1, lanes=3)
    requests = poisson(20, 0.5, 4, 8, seed=1)
    noisy = [
        simulate_plan(costs, plan, requests, jitter=Jitter(0.2, 0.2, seed=seed))
        for seed in (7, 7, 8)
    ]
    assert noisy[0] == noisy[1]
    assert noisy[0] != noisy[2]
    assert poisson(20, 0.5, 4, 8, seed=1) == requests != poisson(20, 0.5, 4, 8, seed=2)


def test_jitter_has_mean_one_and_its_own_stream_per_device() -> None:
    jitter = Jitter(compute=0.2, seed=3)
    stream = jitter.factors("a", link=False)
    drawn = [next(stream) for _ in range(20_000)]
    assert sum(drawn) / len(drawn) == pytest.approx(1.0, abs=0.005)
    assert drawn[0] != next(jitter.factors("b", link=False))
    assert next(jitter.factors("a -> b", link=True)) == 1.0


def test_what_cannot_be_simulated_is_refused() -> None:
    costs, plan = chain([1.0, 1.0], [0.0])
    with pytest.raises(PlanError, match="no requests"):
        simulate_plan(costs, plan, [])
    with pytest.raises(PlanError, match="context of 4096"):
        simulate_plan(costs, plan, [Arrival(0.0, 4096, 1)])
    backwards = spread(costs.model, ["d1", "d1"])
    alone = replace(costs, cluster=Cluster(costs.cluster.devices, (), "d0"))
    with pytest.raises(ClusterError, match="nothing connects"):
        simulate_plan(alone, backwards, together(1, 4, 1))
    for wrong in ((-1.0, 4, 4), (0.0, 0, 4), (0.0, 4, 0)):
        with pytest.raises(ValueError):
            Arrival(*wrong)
    with pytest.raises(ValueError):
        poisson(3, 0.0, 4, 4)


def test_a_lane_that_empties_carries_less() -> None:
    cluster, profile = load_testbed("home", LLAMA2_7B, schemes=("bf16",))
    costs = CostModel(LLAMA2_7B, cluster, profile, Workload(64, 8, sequences=2))
    cuts = (0, 4, 34)
    stages = tuple(
        Stage(name, start, end, ("bf16",) * (end - start))
        for name, (start, end) in zip(("laptop", "desktop"), pairwise(cuts), strict=True)
    )
    plan = Plan(LLAMA2_7B.name, LLAMA2_7B.digest, LLAMA2_7B.num_layers, stages)
    both = costs.estimate(plan)
    one = replace(costs, workload=Workload(64, 8)).estimate(plan)
    outcome = simulate_plan(costs, plan, [Arrival(0.0, 64, 4), Arrival(0.0, 64, 8)])
    shared = both.prefill_seconds + 3 * both.decode_seconds
    assert outcome.requests[0].finish_seconds == pytest.approx(shared, abs=EXACT)
    expected = shared + 4 * one.decode_seconds
    assert outcome.requests[1].finish_seconds == pytest.approx(expected, abs=EXACT)
    assert one.decode_seconds < both.decode_seconds
