"""Where layers lie when adapters are private."""

from edgewise.errors import Infeasible, PlanError
from edgewise.opening.wanted import Wanted
from edgewise.planning.proportional import shares
from edgewise.plans import Plan, Stage
from edgewise.schemes import STORED
from edgewise.specs import ModelSpec


def private_plan(wanted: Wanted, spec: ModelSpec) -> Plan:
    """The plan that is wanted, else embedding and head on the source and the blocks on all other
    devices, in proportion to their memory: the planners do not know what asking for M D x costs.
    Raises PlanError where a plan keeps the head elsewhere, which computes the answer, and
    Infeasible where there is no other device."""
    cluster, plan = wanted.cluster, wanted.plan
    if plan is not None:
        if (last := plan.stages[-1].device) != cluster.source:
            raise PlanError(
                f"this plan puts the head on '{last}', which would know what private adapters "
                "answer: `edgewise plan --pin head=...` keeps it on the source"
            )
        return plan
    others = [device for device in cluster.devices if device.name != cluster.source]
    if not others:
        raise Infeasible(
            f"'{cluster.source}' is the only device: private adapters need another one for the "
            "blocks; --cluster names more"
        )
    counts = shares([float(device.memory_bytes) for device in others], spec.num_blocks)
    names = [device.name for device, count in zip(others, counts, strict=True) if count]
    ends = [1]
    for count in filter(None, counts):
        ends.append(ends[-1] + count)
    scheme = wanted.scheme or STORED
    placed = zip([cluster.source, *names, cluster.source], [0, *ends], [*ends, ends[-1] + 1],
                 strict=True)  # fmt: skip
    stages = tuple(Stage(name, a, b, (scheme,) * (b - a)) for name, a, b in placed)
    work = wanted.workload
    named = spec.name, spec.digest, spec.num_layers
    return Plan(*named, stages, cache=work.cache, wire=work.wire)
