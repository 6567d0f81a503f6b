"""Bits for each layer chosen by `joint`, for `quality.py`: the least predicted loss in the memory
that one scheme throughout takes."""

from pathlib import Path

from torch import Tensor

from edgewise.clusters import Cluster, Device
from edgewise.costs import CostModel
from edgewise.errors import Infeasible
from edgewise.memory import device_bytes
from edgewise.planning import Problem
from edgewise.planning.joint import joint
from edgewise.plans import Stage
from edgewise.quality.sensitivity import measure_sensitivity
from edgewise.quantization.store import Store
from edgewise.schemes import CANDIDATES
from edgewise.sensitivities import Sensitivity
from edgewise.simulation.rooflines import Roofline, make_profile
from edgewise.specs import ModelSpec, Workload

LADDER = tuple(name for name in CANDIDATES if name != "bf16")
WORKLOAD = Workload(64, 32)
CLOSE = 1.02  # budgets this near to each other are one
SECONDS = 3.0  # of one search


def sensitivity_of(folder: Path, ids: Tensor, method: str) -> Sensitivity:
    """What each layer loses in each scheme, on sequences ids [B, T]."""
    return measure_sensitivity(str(folder), LADDER, ids, method=method, store=Store.default())


def chosen(spec: ModelSpec, uniform: str, sensitivity: Sensitivity) -> list[str]:
    """A scheme per layer, within the bytes of `uniform` throughout. The least budget of loss for
    which `joint` finds a plan is found by bisection."""
    whole = Stage("device", 0, spec.num_layers, (uniform,) * spec.num_layers)
    memory = device_bytes(spec, [whole], WORKLOAD)
    cluster = Cluster((Device("device", memory),), (), "device")
    profile = make_profile(spec, [Roofline("device", 1e11, 1e9)], LADDER)
    costs = CostModel(spec, cluster, profile, WORKLOAD, sensitivity)
    high = sum(sensitivity.losses[uniform])
    low, best = high / 64, whole.schemes
    while high > low * CLOSE:
        middle = (low * high) ** 0.5
        try:
            result = joint(Problem(costs, LADDER, budget=middle), SECONDS)
        except Infeasible:
            low = middle
            continue
        (stage,) = result.plan.stages
        high, best = min(middle, result.estimate.loss), stage.schemes
    return list(best)
