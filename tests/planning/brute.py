"""The truth about a small problem: try every placement. Adds seconds and bytes up by itself."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise, product

from edgewise.planning import Problem
from edgewise.specs import LayerKind


@dataclass(frozen=True)
class Placement:
    """Layer i on devices[i], and what a token then takes."""

    devices: tuple[str, ...]
    seconds: float


class Arithmetic:
    """What a placement in fp32 costs, without asking the package's cost model."""

    def __init__(self, problem: Problem) -> None:
        costs = problem.costs
        model, profile, work = costs.model, costs.profile, costs.workload
        names = [device.name for device in costs.cluster.devices]
        middle = work.prompt_tokens + work.new_tokens // 2
        self.source = costs.cluster.source
        self.memory = {device.name: device.memory_bytes for device in costs.cluster.devices}
        self.step = {step.device: step.seconds for step in profile.steps}
        self.token_hop = _hops(problem, 8)
        self.enter = {
            (start, end): 0.0 if start == end else seconds + self.step[end]
            for (start, end), seconds in _hops(problem, 4 * model.hidden_size).items()
        }
        self.layer_seconds = [
            {name: profile.decode_seconds(name, spec.kind, "fp32", middle) for name in names}
            for spec in model.layers
        ]
        cache = 4 * model.kv_width * work.sequences * (work.prompt_tokens + work.new_tokens)
        self.layer_bytes = [
            4 * (sum(rows * columns for rows, columns in spec.matrices) + spec.other_weights)
            + (cache if spec.kind is LayerKind.BLOCK else 0)
            for spec in model.layers
        ]
        widest = max(rows for spec in model.layers[1:-1] for rows, _ in spec.matrices)
        chunk = work.prompt_tokens * (2 * widest + 4 * model.hidden_size)
        self.workspace = 4 * (chunk + model.vocab_size)
        self.shared = 4 * model.vocab_size * model.hidden_size if model.tied else 0

    def seconds(self, devices: Sequence[str]) -> float:
        """Once round: in at the source, through the layers, the token back to the source."""
        total = self.token_hop[self.source, devices[0]] + self.step[devices[0]]
        for times, device in zip(self.layer_seconds, devices, strict=True):
            total += times[device]
        total += sum(map(self.enter.__getitem__, pairwise(devices)))
        return total + self.token_hop[devices[-1], self.source]

    def used(self, devices: Sequence[str]) -> dict[str, int]:
        """Bytes on each device. Embedding and head are shared only if one stage holds both."""
        found = dict.fromkeys(devices, self.workspace)
        for size, device in zip(self.layer_bytes, devices, strict=True):
            found[device] += size
        if len(found) == 1:
            found[devices[0]] -= self.shared
        return found

    def fits(self, devices: Sequence[str]) -> bool:
        return all(used <= self.memory[name] for name, used in self.used(devices).items())


def _hops(problem: Problem, count: int) -> dict[tuple[str, str], float]:
    """Seconds of `count` bytes between any two devices, infinite where no link joins them."""
    names = [device.name for device in problem.costs.cluster.devices]
    found = dict.fromkeys(product(names, names), math.inf)
    for link in problem.costs.profile.links:
        found[link.source, link.target] = link.latency_seconds + count / link.bytes_per_second
    return found


def brute_force(problem: Problem, *, memory: bool = True) -> Placement | None:
    """The fastest of all placements that begin on the source, None where none works.

    Devices may be visited again. Without `memory`, every device counts as large enough.
    """
    sums = Arithmetic(problem)
    best, fastest = None, math.inf
    for rest in product(sums.memory, repeat=problem.num_layers - 1):
        devices = (sums.source, *rest)
        seconds = sums.seconds(devices)
        if seconds < fastest and (not memory or sums.fits(devices)):
            best, fastest = Placement(devices, seconds), seconds
    return best
