"""A Problem as arrays, asked of the cost model once, for planners that search."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache

import numpy as np
from numpy.typing import NDArray

from edgewise.costs import CostModel
from edgewise.errors import Infeasible
from edgewise.planning.problem import Problem
from edgewise.units import format_bytes

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]
Bools = NDArray[np.bool_]
INFINITY = float("inf")


@dataclass(frozen=True, slots=True)
class Tables:
    """Axes: s = scheme, i = layer, j and k = device, each in the order of the problem.

    `decode[s, i, j]` and `prefill[s, i, j]` are seconds of a token and of one of the `chunks` of a
    prompt, on average; `size[s, i]` bytes, `loss[s, i]` quality. `hop[j, k]` and `chunk_hop[j, k]`
    bring a token's or a chunk's hidden states from j to k, `entry[j]`, `chunk_entry[j]` and
    `back[j]` token ids in from the source and out to it; `busy` and `chunk_busy`, `entry_busy` and
    `back_busy` are what of that keeps the link from carrying others. `room[j]` is what a device has
    for layers; a tied model that lies whole on one device takes `shared[s]` bytes less.
    `allowed[i, j]` respects the pins, and that what is private is asked for at the source.
    """

    names: tuple[str, ...]
    schemes: tuple[str, ...]
    decode: Floats
    prefill: Floats
    size: Ints
    loss: Floats
    step: Floats
    hop: Floats
    busy: Floats
    chunk_hop: Floats
    chunk_busy: Floats
    entry: Floats
    chunk_entry: Floats
    entry_busy: Floats
    back: Floats
    back_busy: Floats
    chunks: int
    room: Ints
    shared: Ints
    allowed: Bools
    required: Bools

    @property
    def num_layers(self) -> int:
        return len(self.allowed)


def tables(problem: Problem) -> Tables:
    costs, names, schemes = problem.costs, problem.devices, problem.schemes
    if not names:
        raise Infeasible("every device is forbidden")
    model, layers, chunks = costs.model, range(problem.num_layers), len(costs.chunks)
    tokens = -(-costs.workload.prompt_tokens // chunks)
    width = costs.hidden_bytes
    first = {name: i for i, name in reversed(list(enumerate(model.classes)))}

    @cache
    def seconds(s: str, layer: int, name: str) -> tuple[float, float]:
        return costs.decode_seconds(layer, name, s), costs.prefill_seconds(layer, name, s) / chunks

    delay, rate = _links(costs, names)
    busy, chunk_busy = width / rate, width * tokens / rate
    entry = [costs.entry_hop(name) for name in names]
    back = [costs.return_hop(name) for name in names]
    times = np.array(
        [[[seconds(s, first[model.classes[i]], n) for n in names] for i in layers]
         for s in schemes]
    )  # fmt: skip
    reached = np.isfinite(times[..., 0])  # by blocks that ask the source
    times = np.where(reached[..., None], times, 0.0)
    return Tables(
        names=names,
        schemes=schemes,
        decode=times[..., 0],
        prefill=times[..., 1],
        size=np.array([[costs.layer_bytes(i, s) for i in layers] for s in schemes]),
        loss=np.array([[costs.loss(i, s) for i in layers] for s in schemes]),
        step=np.array([costs.step_seconds(name) for name in names]),
        hop=busy + delay,
        busy=busy,
        chunk_hop=chunk_busy + delay,
        chunk_busy=chunk_busy,
        entry=np.array([hop.seconds for hop in entry]),
        chunk_entry=np.array([costs.entry_hop(name, tokens).seconds for name in names]),
        entry_busy=np.array([hop.occupancy_seconds for hop in entry]),
        back=np.array([hop.seconds for hop in back]),
        back_busy=np.array([hop.occupancy_seconds for hop in back]),
        chunks=chunks,
        room=np.array([costs.capacity_bytes(name) for name in names]),
        shared=np.array([model.shared_bytes((s, s)) for s in schemes]),
        allowed=np.array([[problem.pinned.get(i, n) == n for n in names] for i in layers])
        & reached.all(axis=0),
        required=np.array([name in problem.required for name in names]),
    )


def _links(costs: CostModel, names: Sequence[str]) -> tuple[Floats, Floats]:
    """Latency and bytes per second from j to k, as `CostModel.link` has them one by one: thousands
    of devices have millions of links. Within a device both cost nothing."""
    number, count = {name: j for j, name in enumerate(names)}, len(names)
    delay, rate = np.full((2, count, count), INFINITY)
    for network in reversed(costs.cluster.networks):
        members = np.array([number[name] for name in network.devices if name in number], dtype=int)
        delay[np.ix_(members, members)] = network.latency_seconds
        rate[np.ix_(members, members)] = network.bytes_per_second
    for link in (*costs.cluster.links, *costs.profile.links):
        if link.source in number and link.target in number:
            delay[number[link.source], number[link.target]] = link.latency_seconds
            rate[number[link.source], number[link.target]] = link.bytes_per_second
    ends = [costs.cluster.device(name).interface_bytes_per_second for name in names]
    rate = np.minimum(rate, np.minimum.outer(ends, ends))
    np.fill_diagonal(delay, 0.0)
    np.fill_diagonal(rate, INFINITY)
    return delay, rate


@dataclass(frozen=True, slots=True)
class Latency:
    """The latency objective as sums: `seconds[s, i, j]` of a layer, `enter[j, k]` for going on at
    another device (hop and step), `first[j]` for coming in and `back[j]` for going out."""

    seconds: Floats
    enter: Floats
    first: Floats
    back: Floats


def latency(arrays: Tables, first_token_weight: float = 0.0) -> Latency:
    """A token's round trip plus `first_token_weight` times one chunk's way through the plan: all of
    the time to the first token where a prompt is one chunk, else less than it."""
    w = first_token_weight

    def with_chunk(token: Floats, chunk: Floats) -> Floats:
        return token + w * chunk if w else token.copy()  # 0 times infinity is no number

    enter = with_chunk(arrays.hop, arrays.chunk_hop) + (1 + w) * arrays.step
    np.fill_diagonal(enter, 0.0)
    return Latency(
        seconds=arrays.decode + w * arrays.prefill,
        enter=enter,
        first=with_chunk(arrays.entry, arrays.chunk_entry) + (1 + w) * arrays.step,
        back=(1 + w) * arrays.back,
    )


def equal_devices(problem: Problem, arrays: Tables) -> tuple[tuple[int, ...], ...]:
    """Devices grouped so that any two of a group can change places without changing any cost.

    The source, pinned and required devices are groups of their own.
    """
    own = {problem.source, *problem.pinned.values(), *problem.required}
    interface = [problem.costs.cluster.device(x).interface_bytes_per_second for x in arrays.names]
    groups: list[list[int]] = []
    for j, name in enumerate(arrays.names):
        for group in groups:
            apart = name in own or arrays.names[group[0]] in own
            alike = interface[group[0]] == interface[j]
            if not apart and alike and _equal(arrays, group[0], j):
                group.append(j)
                break
        else:
            groups.append([j])
    return tuple(tuple(group) for group in groups)


def _equal(arrays: Tables, a: int, b: int) -> bool:
    ends = arrays.entry, arrays.chunk_entry, arrays.entry_busy, arrays.back, arrays.back_busy
    if any(v[a] != v[b] for v in (arrays.room, arrays.step, *ends)):
        return False
    others = np.delete(np.arange(len(arrays.names)), (a, b))
    seconds = arrays.decode, arrays.prefill
    return all(np.array_equal(v[..., a], v[..., b]) for v in seconds) and all(
        np.array_equal(v[a, others], v[b, others])
        and np.array_equal(v[others, a], v[others, b])
        and v[a, b] == v[b, a]
        for v in (arrays.hop, arrays.busy, arrays.chunk_hop, arrays.chunk_busy)
    )


def least_bytes(arrays: Tables, budget: float) -> int:
    """What the layers take at least within the loss budget, wherever they lie: the best bound of
    sum_l min_s (size + price * loss) - price * budget over prices of loss."""
    usable = arrays.loss <= budget
    size = np.where(usable, arrays.size, np.inf)
    best = float(size.min(axis=0).sum())
    if np.isfinite(budget) and np.isfinite(best) and budget > 0:
        loss = np.where(usable, arrays.loss, 0.0)
        for price in best / budget * np.geomspace(1e-4, 1e2, 60):
            bound = float((size + price * loss).min(axis=0).sum()) - price * budget
            best = max(best, bound)
    return int(best * (1 - 1e-9)) if np.isfinite(best) else np.iinfo(np.int64).max


def why_infeasible(problem: Problem, arrays: Tables) -> Infeasible:
    """The first constraint that cannot hold, named, with what is missing."""
    least = float(arrays.loss.min(axis=0).sum())
    if least > problem.budget:
        return Infeasible(
            f"the least predicted loss in {', '.join(arrays.schemes)} is {least:.4g}, "
            f"which exceeds the budget of {problem.budget:.4g} by {least - problem.budget:.4g}"
        )
    usable = arrays.loss <= problem.budget
    size = np.where(usable, arrays.size, np.iinfo(np.int64).max).min(axis=0)
    for j, name in enumerate(arrays.names):
        pinned = [i for i in range(arrays.num_layers) if problem.pinned.get(i) == name]
        needed, room = int(size[pinned].sum()), int(arrays.room[j])
        if pinned and needed > room + int(arrays.shared.max()):
            return Infeasible(
                f"device '{name}' has {format_bytes(room)} for layers but would need "
                f"{format_bytes(needed)} for those pinned to it",
                shortage_bytes=needed - room,
            )
    total, room = int(size.sum()), int(np.maximum(arrays.room, 0).sum())
    within = least_bytes(arrays, problem.budget) - int(arrays.shared.max())
    if total <= room < within:
        return Infeasible(
            f"within the loss budget of {problem.budget:.4g} the model needs at least "
            f"{format_bytes(within)}, the devices have {format_bytes(room)} for layers: "
            f"{format_bytes(within - room)} too little",
            shortage_bytes=within - room,
        )
    if total > room:
        missing = f"{format_bytes(total - room)} too little in all"
    elif problem.budget < INFINITY and usable.all() and len(arrays.schemes) > 1:
        missing = "enough in all, but not in pieces that fit, at schemes within the budget"
    else:
        missing = "enough in all, but no reachable device has room for what is left over"
    return Infeasible(
        f"the model needs {format_bytes(total)} at its smallest, the devices have "
        f"{format_bytes(room)} for layers, {missing}",
        shortage_bytes=total - room if total > room else None,
    )
