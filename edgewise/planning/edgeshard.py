"""EdgeShard's latency dynamic program (arXiv 2405.14371, Algorithm 1).

    DP(0, source) = t(0, source)                                    the prompt stays on the source
    DP(i, j)      = min over k of DP(i-1, k) + hop(k, j) + t(i, j)
    DP(N-1, j)    adds the hop that brings the sampled token back to the source

t(i, j) is layer i's seconds per token on device j; hop(k, j) also counts what another step costs j.
Each state keeps the memory left on every device along its best path, and a step onto a device
without room is skipped. One path per state makes it a heuristic where memory binds, as in the
paper; where it does not, it is exact. A device may be visited more than once. O(N M^2).
"""

from collections.abc import Sequence
from dataclasses import dataclass

from edgewise.errors import Infeasible
from edgewise.planning.problem import PlanResult, Problem, with_uniform_schemes
from edgewise.units import format_bytes


@dataclass(frozen=True, slots=True)
class _Path:
    seconds: float
    devices: tuple[str, ...]
    free: dict[str, int]


def edgeshard(problem: Problem) -> PlanResult:
    """Raises Infeasible where no path is found, with the memory that is missing.

    Beyond the paper, everything on the source is tried first: in a tied model it needs less memory
    than the sum of its layers, which the program does not see.
    """

    def place(scheme: str) -> tuple[Sequence[str], str, str]:
        alone: Sequence[str] = [problem.source] * problem.num_layers
        stays = _holds(problem, alone, scheme)
        try:
            best: Sequence[str] = _best_path(problem, scheme).devices
        except Infeasible:
            if not stays:
                raise
            best = alone
        if stays and (
            not _holds(problem, best, scheme)
            or _seconds(problem, alone, scheme) <= _seconds(problem, best, scheme)
        ):
            best = alone
        return best, "heuristic", f"least seconds over {len(problem.devices)} devices"

    return with_uniform_schemes(problem, "edgeshard", place)


def _seconds(problem: Problem, devices: Sequence[str], scheme: str) -> float:
    plan = problem.plan(devices, [scheme] * problem.num_layers)
    return problem.costs.estimate(plan).decode_seconds


def _holds(problem: Problem, devices: Sequence[str], scheme: str) -> bool:
    plan = problem.plan(devices, [scheme] * problem.num_layers)
    try:
        problem.check(plan, problem.costs.estimate(plan))
    except Infeasible:
        return False
    return True


def _best_path(problem: Problem, scheme: str) -> _Path:
    costs = problem.costs
    free = {name: costs.capacity_bytes(name) for name in problem.devices}
    states = {"": _Path(0.0, (), free)}
    for layer in range(problem.num_layers):
        states = _extend(problem, scheme, states, layer)
    return min(
        states.values(),
        key=lambda path: path.seconds + costs.return_hop(path.devices[-1]).seconds,
    )


def _extend(
    problem: Problem, scheme: str, states: dict[str, _Path], layer: int
) -> dict[str, _Path]:
    """The best path to each device that can take `layer` next."""
    costs, needed = problem.costs, problem.costs.layer_bytes(layer, scheme)
    targets = (problem.pinned[layer],) if layer in problem.pinned else problem.devices
    extended = {}
    for target in targets:
        reached = [
            (path.seconds + _enter(problem, device, target), path)
            for device, path in states.items()
            if path.free[target] >= needed
        ]
        seconds, path = min(reached, key=lambda arrival: arrival[0], default=(float("inf"), None))
        if path is not None and seconds < float("inf"):
            extended[target] = _Path(
                seconds + costs.decode_seconds(layer, target, scheme),
                (*path.devices, target),
                {**path.free, target: path.free[target] - needed},
            )
    if not extended:
        raise _no_room(problem, scheme, layer)
    return extended


def _enter(problem: Problem, device: str, target: str) -> float:
    """The hop and the step; from nowhere, the prompt's way in."""
    costs = problem.costs
    if device:
        return costs.enter_seconds(device, target)
    return costs.entry_hop(target).seconds + costs.step_seconds(target)


def _no_room(problem: Problem, scheme: str, layer: int) -> Infeasible:
    costs = problem.costs
    total = sum(costs.layer_bytes(i, scheme) for i in range(problem.num_layers))
    room = sum(max(costs.capacity_bytes(name), 0) for name in problem.devices)
    short = total - room
    if short > 0:
        reason = f"{format_bytes(short)} too little in all"
    else:
        reason = "enough in all, but no reachable device has room for the layer"
    return Infeasible(
        f"layer {layer} finds no device with room: the model needs {format_bytes(total)} in "
        f"{scheme}, the devices have {format_bytes(room)}, {reason}",
        shortage_bytes=short if short > 0 else None,
    )
