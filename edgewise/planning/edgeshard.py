"""EdgeShard's latency dynamic program (arXiv 2405.14371, Algorithm 1).

    DP(0, source) = t(0, source)                                    the prompt stays on the source
    DP(i, j)      = min over k of DP(i-1, k) + hop(k, j) + t(i, j)
    DP(N-1, j)    adds the hop that brings the sampled token back to the source

t(i, j) is layer i's seconds per token on device j; hop(k, j) also counts what another step costs j.
Each state keeps the memory left on every device along its best path, and a step onto a device
without room is skipped. One path per state makes it a heuristic where memory binds, as in the
paper; where it does not, it is exact. A device may be visited more than once. O(N M^2).
"""

import time
from dataclasses import dataclass

from edgewise.errors import Infeasible
from edgewise.planning.problem import PlanResult, Problem, result
from edgewise.units import format_bytes


@dataclass(frozen=True, slots=True)
class _Path:
    seconds: float
    devices: tuple[str, ...]
    free: dict[str, int]


def edgeshard(problem: Problem) -> PlanResult:
    """Raises Infeasible where no path is found, with the memory that is missing."""
    began = time.perf_counter()
    costs, source = problem.costs, problem.source
    free = {name: costs.capacity_bytes(name) for name in problem.devices}
    states = _extend(problem, {source: _Path(0.0, (), free)}, layer=0, targets=(source,))
    for layer in range(1, problem.num_layers):
        states = _extend(problem, states, layer, problem.devices)
    best = min(states.values(), key=lambda path: path.seconds + _back(problem, path))
    why = f"least seconds per token over {len(free)} devices"
    return result(problem, "edgeshard", best.devices, "heuristic", began, why)


def _extend(
    problem: Problem, states: dict[str, _Path], layer: int, targets: tuple[str, ...]
) -> dict[str, _Path]:
    """The best path to each device that can take `layer` next."""
    costs, needed = problem.costs, problem.costs.layer_bytes(layer, problem.scheme)
    extended = {}
    for target in targets:
        reached = [
            (path.seconds + costs.enter_seconds(device, target), path)
            for device, path in states.items()
            if path.free[target] >= needed
        ]
        seconds, path = min(reached, key=lambda found: found[0], default=(float("inf"), None))
        if path is not None and seconds < float("inf"):
            extended[target] = _Path(
                seconds + costs.decode_seconds(layer, target, problem.scheme),
                (*path.devices, target),
                {**path.free, target: path.free[target] - needed},
            )
    if not extended:
        raise _no_room(problem, layer)
    return extended


def _back(problem: Problem, path: _Path) -> float:
    return problem.costs.token_hop(path.devices[-1], problem.source)


def _no_room(problem: Problem, layer: int) -> Infeasible:
    costs = problem.costs
    total = sum(costs.layer_bytes(i, problem.scheme) for i in range(problem.num_layers))
    room = sum(max(costs.capacity_bytes(name), 0) for name in problem.devices)
    short = total - room
    if short > 0:
        reason = f"{format_bytes(short)} too little in all"
    else:
        reason = "enough in all, but no reachable device has room for the layer"
    return Infeasible(
        f"layer {layer} finds no device with room: the model needs {format_bytes(total)}, the "
        f"devices have {format_bytes(room)}, {reason}",
        shortage_bytes=max(short, 0),
    )
