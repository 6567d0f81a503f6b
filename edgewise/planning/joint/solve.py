"""The joint problem solved: devices, order, cuts and schemes at once, with a proven gap."""

from edgewise.planning.joint.arrays import JointProblem, Placement
from edgewise.planning.joint.latency import least_latency
from edgewise.planning.joint.period import least_period
from edgewise.planning.joint.search import JointResult, Search

TARGET = 0.01  # relative gap
SECONDS = 10.0
SMALL_LAYERS, SMALL_DEVICES = 12, 5  # settled to the end


def solve(
    p: JointProblem,
    target: float = TARGET,
    seconds: float = SECONDS,
    *,
    prove: bool | None = None,
    warm: Placement | None = None,
) -> JointResult:
    """Plan to a relative gap of `target` within `seconds`. `prove` (by default where the instance
    is small) goes on to exactness. `warm` is a known placement, of this or a similar problem."""
    small = p.shape[0] <= SMALL_LAYERS and p.shape[1] <= SMALL_DEVICES
    run = Search(p, target, seconds, small if prove is None else prove)
    run.offer_known(warm)
    return least_latency(run) if p.passes == 1 else least_period(run)
