"""Slow, lost, late devices and changed links, with the times worked out by hand."""

from dataclasses import replace

import pytest

from edgewise.clusters import Cluster, Link
from edgewise.costs import CostModel
from edgewise.errors import ClusterError, Infeasible, PlanError
from edgewise.planning import PLANNERS, Problem
from edgewise.plans import Plan
from edgewise.profiles import Profile
from edgewise.schemes import get_scheme
from edgewise.simulation import (
    Arrival,
    Jitter,
    Join,
    Leave,
    LinkChange,
    Recovery,
    Slowdown,
    simulate_plan,
    together,
)
from edgewise.simulation.testbeds import LLAMA2_7B, load_testbed
from edgewise.specs import Workload
from tests.simulation.chains import chain, spread


def test_a_slow_device_slows_what_it_starts_afterwards() -> None:
    costs, plan = chain([1.0, 2.0], [0.0])
    faults = [Slowdown("d1", 2.0, 3.0), Slowdown("d1", 10.0, 1.0)]
    outcome = simulate_plan(costs, plan, together(1, 4, 4), faults=faults)
    # d1 computes token 0 from 1 to 3 as before, token 1 from 4 to 10, then as before.
    assert outcome.requests[0].token_seconds == pytest.approx([3.0, 10.0, 13.0, 16.0])


def test_a_changed_link_replaces_what_was_measured() -> None:
    costs, plan = chain([1.0, 1.0], [1.0])
    measured = replace(costs.profile, links=(Link("d0", "d1", 1e9, 2.0),))
    costs = replace(costs, profile=measured)
    faults = [LinkChange(Link("d0", "d1", latency_seconds=5.0), 4.5)]
    outcome = simulate_plan(costs, plan, together(1, 4, 3), faults=faults)
    times = outcome.requests[0].token_seconds
    assert times == pytest.approx([4.0, 11.0, 18.0], abs=1e-6)


def test_without_another_plan_a_lost_device_leaves_requests_unfinished() -> None:
    costs, plan = chain([1.0, 2.0], [0.0], lanes=2)
    outcome = simulate_plan(costs, plan, together(3, 4, 4), faults=[Leave("d1", 7.5)])
    assert not outcome.finished
    assert [len(request.token_seconds) for request in outcome.requests] == [2, 1, 0]
    assert outcome.requests[2].latency_seconds == float("inf")
    assert outcome.summary()["mean_latency_seconds"] is None
    assert max(piece.end_seconds for piece in outcome.slices) <= 9.0


def test_a_lost_device_costs_notice_loading_and_a_longer_prompt() -> None:
    costs, plan = chain([1.0, 2.0], [0.25], per_prompt_token=0.125)
    fallback = spread(costs.model, ["d0", "d0"])
    request = Arrival(0.0, 8, 10)
    costs = replace(costs, workload=Workload(8, 10))
    estimate = costs.estimate(plan)
    at = estimate.prefill_seconds + 3.5 * estimate.decode_seconds  # four tokens are out
    asked: list[Cluster] = []

    def replan(cluster: Cluster, profile: Profile) -> Plan:
        asked.append(cluster)
        return fallback

    recovery = Recovery(notice_seconds=2.0, load_bytes_per_second=100.0)
    outcome = simulate_plan(
        costs, plan, [request], faults=[Leave("d1", at)], replan=replan, recovery=recovery
    )
    assert [device.name for device in asked[0].devices] == ["d0"]
    after = replace(costs, workload=Workload(12, 6)).estimate(fallback)
    stored = get_scheme("fp32")
    load = sum(costs.model.layers[i].weight_bytes(stored) for i in (2, 3)) / 100.0
    expected = at + 2.0 + load + after.prefill_seconds + 5 * after.decode_seconds
    assert outcome.requests[0].finish_seconds == pytest.approx(expected, abs=1e-9)
    assert outcome.finished
    assert [chosen for _, chosen in outcome.plans] == [plan, fallback]
    (loading,) = [piece for piece in outcome.slices if piece.phase == "load"]
    assert loading.end_seconds - loading.start_seconds == pytest.approx(load)


@pytest.mark.parametrize("bubbles", [False, True])
def test_no_token_is_lost_or_given_twice_however_often_plans_change(bubbles: bool) -> None:
    costs, plan = chain([0.5, 0.5, 0.5], [0.1, 0.1], back=0.1, lanes=3, size=2)
    names = ["d0", "d1", "d2"]
    links = tuple(Link(a, b, latency_seconds=0.1) for a in names for b in names if a != b)
    costs = replace(costs, cluster=Cluster(costs.cluster.devices, links, "d0"))
    faults = [
        Leave("d2", 3.3),
        Join("d2", 20.2),
        Slowdown("d1", 27.0, 4.0),
        Leave("d1", 28.0),
        LinkChange(Link("d0", "d2", latency_seconds=0.5), 28.5),
    ]
    alive: list[list[str]] = []

    def replan(cluster: Cluster, profile: Profile) -> Plan:
        there = [device.name for device in cluster.devices]
        alive.append(there)
        return spread(costs.model, [(there * 3)[i] for i in range(3)])

    recovery = Recovery(notice_seconds=0.7, load_bytes_per_second=500.0)
    outcome = simulate_plan(
        costs,
        plan,
        together(7, 4, 20),
        faults=faults,
        replan=replan,
        recovery=recovery,
        jitter=Jitter(0.1, 0.1),
        bubbles=bubbles,
    )
    assert outcome.finished
    assert alive == [["d0", "d1"], names, names, ["d0", "d2"], ["d0", "d2"]]
    quiet = simulate_plan(costs, plan, together(7, 4, 20), jitter=Jitter(0.1, 0.1), bubbles=bubbles)
    assert outcome.makespan_seconds > quiet.makespan_seconds
    gone = [s for s in outcome.slices if "d2" in (s.resource.device, s.resource.target)]
    assert not [s for s in gone if s.end_seconds > 3.3 and s.start_seconds < 20.2]
    for request in outcome.requests:
        assert list(request.token_seconds) == sorted(request.token_seconds)


def test_a_plan_that_stays_best_is_not_interrupted() -> None:
    costs, plan = chain([1.0, 2.0], [0.0])
    quiet = simulate_plan(costs, plan, together(1, 4, 4))
    outcome = simulate_plan(
        costs,
        plan,
        together(1, 4, 4),
        faults=[Slowdown("d0", 1.0, 1.0)],
        replan=lambda cluster, profile: plan,
    )
    assert outcome.requests == quiet.requests
    assert len(outcome.plans) == 1


def test_a_real_planner_goes_around_a_slow_and_a_lost_device() -> None:
    """EdgeShard's testbed: the GPU becomes ten times slower, recovers, then is lost."""
    cluster, profile = load_testbed("edgeshard", LLAMA2_7B)
    costs = CostModel(LLAMA2_7B, cluster, profile, Workload(32, 96))

    def replan(cluster: Cluster, profile: Profile) -> Plan:
        changed = replace(costs, cluster=cluster, profile=profile)
        return PLANNERS["edgeshard"](Problem(changed)).plan

    plan = replan(cluster, profile)
    faults = [
        Slowdown("rtx3090", 5.0, 10.0),
        Slowdown("rtx3090", 20.0, 1.0),
        Leave("rtx3090", 60.0),
    ]
    recovery = Recovery(1.0, 2e9)
    outcome = simulate_plan(
        costs, plan, together(6, 32, 96), faults=faults, replan=replan, recovery=recovery
    )
    used = ["rtx3090" in chosen.devices for _, chosen in outcome.plans]
    assert used == [True, False, True, False]
    assert outcome.finished
    stuck = simulate_plan(costs, plan, together(6, 32, 96), faults=faults[:1])
    moved = simulate_plan(
        costs, plan, together(6, 32, 96), faults=faults[:1], replan=replan, recovery=recovery
    )
    assert moved.makespan_seconds < stuck.makespan_seconds


def test_impossible_faults_are_refused() -> None:
    costs, plan = chain([1.0, 1.0], [0.0])
    one = together(1, 4, 1)
    with pytest.raises(ClusterError, match="source 'd0' cannot leave"):
        simulate_plan(costs, plan, one, faults=[Leave("d0", 1.0)])
    with pytest.raises(ClusterError, match="unknown device 'd7'"):
        simulate_plan(costs, plan, one, faults=[Slowdown("d7", 1.0, 2.0)])
    with pytest.raises(ClusterError, match="0 times slower"):
        Slowdown("d1", 1.0, 0)
    with pytest.raises(PlanError, match="other devices: unknown device 'd1'"):
        simulate_plan(costs, plan, one, faults=[Join("d1", 1.0)])

    def nothing(cluster: Cluster, profile: Profile) -> Plan:
        raise Infeasible("no room")

    with pytest.raises(Infeasible, match="no room"):
        simulate_plan(costs, plan, one, faults=[Leave("d1", 0.5)], replan=nothing)


def test_a_device_that_comes_back_at_once_has_lost_its_layers() -> None:
    costs, plan = chain([1.0, 2.0], [0.25], per_prompt_token=0.125)
    costs = replace(costs, workload=Workload(8, 6))
    estimate = costs.estimate(plan)
    at = estimate.prefill_seconds + 1.5 * estimate.decode_seconds  # two tokens are out
    outcome = simulate_plan(
        costs,
        plan,
        [Arrival(0.0, 8, 6)],
        faults=[Leave("d1", at), Join("d1", at + 1.0), Slowdown("d1", at + 20.0, 1.0)],
        replan=lambda cluster, profile: plan,
        recovery=Recovery(notice_seconds=2.0, load_bytes_per_second=100.0),
    )
    assert len(outcome.plans) == 2  # the third time it is asked, nothing is lost any more
    load = sum(costs.model.layers[i].weight_bytes(get_scheme("fp32")) for i in (2, 3)) / 100.0
    after = replace(costs, workload=Workload(10, 4)).estimate(plan)
    expected = at + 2.0 + load + after.prefill_seconds + 3 * after.decode_seconds
    assert outcome.requests[0].finish_seconds == pytest.approx(expected, abs=1e-9)


def test_a_slow_device_is_also_slow_to_begin_a_step() -> None:
    costs, plan = chain([1.0, 2.0], [0.0])
    readings = tuple(replace(reading, step_seconds=0.5) for reading in costs.profile.devices)
    costs = replace(costs, profile=replace(costs.profile, devices=readings))
    outcome = simulate_plan(costs, plan, together(1, 4, 1), faults=[Slowdown("d1", 0.0, 2.0)])
    assert outcome.makespan_seconds == pytest.approx(1.5 + 2 * 2.5)
