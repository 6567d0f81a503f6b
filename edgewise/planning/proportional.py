"""Rules that divide the layers by one figure per device and look at nothing else.

`even` takes equal parts, `memory_proportional` what llama.cpp, exo and mesh-llm do, and
`speed_proportional` divides by measured speed. The source comes first; what is over goes to the
largest remainders; devices whose part is empty stay unused.
"""

from collections.abc import Callable, Sequence

from edgewise.clusters import Cluster
from edgewise.errors import Infeasible
from edgewise.planning.problem import PlanResult, Problem, with_uniform_schemes


def even(problem: Problem) -> PlanResult:
    """The same number of layers on every device. Raises Infeasible where a part does not fit."""
    return _divide(problem, "even", lambda name, scheme: 1.0, "equal parts")


def memory_proportional(problem: Problem) -> PlanResult:
    """Layers in proportion to memory, fastest link first or not. Raises Infeasible."""
    return _divide(
        problem,
        "memory",
        lambda name, scheme: max(float(problem.costs.capacity_bytes(name)), 0.0),
        "in proportion to memory",
    )


def speed_proportional(problem: Problem) -> PlanResult:
    """Layers in proportion to blocks per second. Raises Infeasible."""
    blocks = [i for i, layer in enumerate(problem.costs.model.layers) if layer.kind.is_block]
    return _divide(
        problem,
        "speed",
        lambda name, scheme: 1 / max(problem.costs.decode_seconds(blocks[0], name, scheme), 1e-12),
        "in proportion to speed",
    )


def _divide(
    problem: Problem, planner: str, weight: Callable[[str, str], float], how: str
) -> PlanResult:
    def place(scheme: str) -> tuple[list[str], str, str]:
        names = problem.devices[: problem.num_layers]
        counts = shares([weight(name, scheme) for name in names], problem.num_layers)
        if counts[0] == 0:
            counts[0] += 1
            counts[counts.index(max(counts))] -= 1
        devices = [name for name, count in zip(names, counts, strict=True) for _ in range(count)]
        return devices, "fixed", f"{problem.num_layers} layers {how} over {len(names)} devices"

    return with_uniform_schemes(problem, planner, place)


def away_from_source(cluster: Cluster, blocks: int) -> list[str]:
    """Of every block the device, in their order: those that are not the source, in proportion to
    their memory. Raises Infeasible where there is none."""
    others = [device for device in cluster.devices if device.name != cluster.source]
    if not others:
        raise Infeasible(
            f"'{cluster.source}' is the only device: private adapters need another one for the "
            "blocks: add one"
        )
    counts = shares([float(device.memory_bytes) for device in others], blocks)
    return [x.name for x, count in zip(others, counts, strict=True) for _ in range(count)]


def shares(weights: Sequence[float], total: int) -> list[int]:
    """Whole numbers in proportion to `weights` that sum to `total` (largest remainders)."""
    whole = sum(weights)
    if whole <= 0:
        raise Infeasible("no device has anything to give")
    exact = [weight / whole * total for weight in weights]
    counts = [int(share) for share in exact]
    by_remainder = sorted(range(len(weights)), key=lambda i: counts[i] - exact[i])
    for i in by_remainder[: total - sum(counts)]:
        counts[i] += 1
    return counts
