"""Where layers lie when adapters are private: embedding and head on the source, blocks on all other
devices in proportion to their memory."""

import time
from collections.abc import Sequence
from dataclasses import replace

from edgewise.clusters import Cluster
from edgewise.costs import CostModel
from edgewise.errors import PlanError
from edgewise.opening.by_fit import free_now
from edgewise.opening.wanted import Wanted
from edgewise.planning import PlanResult, Problem
from edgewise.planning.problem import result
from edgewise.planning.proportional import away_from_source
from edgewise.plans import Plan
from edgewise.profiles import Profile
from edgewise.runtime.coordinator.coordinator import Replan
from edgewise.runtime.coordinator.workers import Workers
from edgewise.schemes import STORED
from edgewise.specs import ModelSpec, Workload


def private_plan(wanted: Wanted, spec: ModelSpec) -> Plan:
    """The plan that is wanted, else blocks on the other devices. Raises PlanError where a plan
    keeps the head elsewhere, which computes the answer, and Infeasible where there is no other
    device."""
    plan, source = wanted.plan, wanted.cluster.source
    if plan is None:
        nothing = Profile(spec.digest, (), (), ())
        costs = CostModel(spec, wanted.cluster, nothing, wanted.workload)
        return _placed(costs, (wanted.scheme or STORED,) * spec.num_layers)
    if (last := plan.stages[-1].device) != source:
        raise PlanError(
            f"this plan puts the head on '{last}', which would know what private adapters "
            "answer: `edgewise plan --pin head=...` keeps it on the source"
        )
    return plan


def private_replanner(spec: ModelSpec, workload: Workload) -> Replan:
    """On the devices that are left, in the schemes that layers have. It raises Infeasible where
    their memory does not suffice, or where only the source is left."""

    def replan(workers: Workers, plan: Plan) -> Plan:
        costs = free_now(workers, spec, workload)
        again = replace(_placed(costs, plan.schemes), rounding=plan.rounding)
        costs.check_memory(again)
        return again

    return replan


def planned_privately(problem: Problem) -> PlanResult:
    """A planner: each layer in the scheme that loses least. Raises Infeasible."""
    began, costs, layers = time.perf_counter(), problem.costs, range(problem.num_layers)
    schemes = [min(problem.schemes, key=lambda name: costs.loss(i, name)) for i in layers]
    devices = _devices(costs.cluster, costs.model.num_blocks)
    why = "blocks in proportion to memory, away from the source"
    return result(problem, "private", devices, schemes, status="fixed", began=began, why=why)


def _placed(costs: CostModel, schemes: Sequence[str]) -> Plan:
    return Problem(costs).plan(_devices(costs.cluster, costs.model.num_blocks), schemes)


def _devices(cluster: Cluster, blocks: int) -> list[str]:
    """Of every layer."""
    return [cluster.source, *away_from_source(cluster, blocks), cluster.source]
