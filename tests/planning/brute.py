"""The truth about a small problem: try every placement. Adds seconds and bytes up by itself."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import product

import numpy as np
from numpy.typing import NDArray

from edgewise.planning import Objective, Problem
from edgewise.specs import LayerKind

BYTES = {"fp32": 4, "bf16": 2, "fp16": 2}  # of a weight, and of a cached value
Numbers = NDArray[np.int64]
Choice = Callable[[Numbers, Numbers], NDArray[np.bool_]]


@dataclass(frozen=True)
class Placement:
    """Layer i on devices[i] in schemes[i]; what a token then takes, and what the objective says."""

    devices: tuple[str, ...]
    schemes: tuple[str, ...]
    seconds: float
    score: float


class Arithmetic:
    """What placements cost, without asking the package's cost model.

    Placements are rows of two tables: the number of each layer's device and of its scheme.
    """

    def __init__(self, problem: Problem) -> None:
        costs = problem.costs
        model, profile, work = costs.model, costs.profile, costs.workload
        devices = costs.cluster.devices
        self.problem, self.work = problem, work
        self.names = [device.name for device in devices]
        self.source = self.names.index(costs.cluster.source)
        batch = math.ceil(work.sequences / work.micro_batches)
        middle = work.prompt_tokens + work.new_tokens // 2
        readings = {reading.device: reading for reading in profile.devices}
        self.memory = np.array(
            [
                min(device.memory_bytes, round(0.9 * free)) if free else device.memory_bytes
                for device in devices
                for free in [readings[device.kind].free_bytes]
            ]
        )
        self.step = np.array([readings[device.kind].step_seconds for device in devices])
        width = 4 * model.hidden_size * batch * (2 if work.extra.exits > 1 else 1)
        self.token_bytes, self.hidden_bytes = 8 * batch, width
        self.interface = np.array([device.interface_bytes_per_second for device in devices])
        self.token_hop, self.token_busy = _hops(problem, 8 * batch)
        self.hop, self.busy = _hops(problem, width)
        self.ids_hop, _ = _hops(problem, 8 * batch * work.prompt_tokens)
        self.prompt_hop, _ = _hops(problem, width * work.prompt_tokens)
        for table in (self.hop, self.busy, self.prompt_hop):
            np.fill_diagonal(table, 0.0)
        self.decode = np.empty((model.num_layers, len(devices), len(problem.schemes)))
        self.prefill = np.empty_like(self.decode)
        for layer, device, scheme in np.ndindex(self.decode.shape):
            kind = model.layers[layer].kind
            named = _named(problem, kind, model.classes[layer])
            where = devices[device].kind, named, problem.schemes[scheme]
            at = (layer, device, scheme)
            self.decode[at] = profile.decode_seconds(*where, middle, batch)
            if kind is LayerKind.HEAD:  # sees a prompt's last token only
                self.prefill[at] = profile.decode_seconds(*where, work.prompt_tokens, batch)
            else:
                self.prefill[at] = profile.prefill_seconds(*where, work.prompt_tokens, batch)
            if kind is LayerKind.BLOCK and device != self.source:
                for table, tokens in ((self.decode, 1), (self.prefill, work.prompt_tokens)):
                    table[at] += _trips(problem, device, tokens * batch)
        self.width = np.array([BYTES[scheme] for scheme in problem.schemes])
        cached = work.sequences * (work.prompt_tokens + work.new_tokens)
        self.values = np.array(
            [
                sum(rows * columns for rows, columns in spec.matrices)
                + spec.other_weights
                + cached * spec.kv_width
                for spec in model.layers
            ]
        )
        widest = max(rows for spec in model.layers[1:-1] for rows, _ in spec.matrices)
        chunk = min(work.prompt_tokens, 256) * (2 * widest + 4 * model.hidden_size)
        self.workspace = 4 * batch * (chunk + model.vocab_size)
        self.shared = model.vocab_size * model.hidden_size if model.tied else 0
        losses, forever = None, [math.inf] * model.num_layers
        if costs.sensitivity is not None:
            losses = costs.sensitivity.losses
        self.losses = np.array(
            [
                [0.0] * model.num_layers if losses is None else losses.get(x, forever)
                for x in problem.schemes
            ]
        ).T

    def rows(self, devices: Sequence[str], schemes: Sequence[str] = ()) -> tuple[Numbers, Numbers]:
        """The tables of one placement."""
        schemes = schemes or [self.problem.schemes[0]] * len(devices)
        numbers = [self.names.index(name) for name in devices]
        return np.array([numbers]), np.array([[self.problem.schemes.index(x) for x in schemes]])

    def round_trips(self, d: Numbers, s: Numbers) -> NDArray[np.float64]:
        """Once round: in at the source, through the layers, the token back to the source."""
        return self._through(d, s, self.decode, self.hop, self.token_hop)

    def first_tokens(self, d: Numbers, s: Numbers) -> NDArray[np.float64]:
        return self._through(d, s, self.prefill, self.prompt_hop, self.ids_hop)

    def _through(
        self,
        d: Numbers,
        s: Numbers,
        seconds: NDArray[np.float64],
        hop: NDArray[np.float64],
        entry: NDArray[np.float64],
    ) -> NDArray[np.float64]:
        total = entry[self.source, d[:, 0]] + self.step[d[:, 0]]
        for layer, times in enumerate(seconds):
            total = total + times[d[:, layer], s[:, layer]]
            if layer:
                a, b = d[:, layer - 1], d[:, layer]
                total = total + hop[a, b] + np.where(a == b, 0.0, self.step[b])
        return total + self.token_hop[d[:, -1], self.source]

    def bottlenecks(self, d: Numbers, s: Numbers) -> NDArray[np.float64]:
        """The busiest device, all its visits together, or the link that is longest occupied, all it
        carries in a round together. The ways between the source's coordinator and its worker, in
        and out, are links of their own."""
        n, count = len(self.names), len(d)
        carried = np.zeros((count, n + 1, n + 1))
        rows = np.arange(count)
        for a, b in zip(d.T, d.T[1:], strict=False):
            carried[rows, a, b] += self.busy[a, b]
        first, last = d[:, 0], d[:, -1]
        start = np.where(first == self.source, n, self.source)
        end = np.where(last == self.source, n, self.source)
        carried[rows, start, first] += self.token_busy[self.source, first]
        carried[rows, last, end] += self.token_busy[last, self.source]
        worst = np.maximum(carried.reshape(count, -1).max(axis=1), self._interfaces(d))
        entered = np.hstack([np.ones((len(d), 1), dtype=bool), d[:, 1:] != d[:, :-1]])
        layers = np.arange(d.shape[1])
        for number, step in enumerate(self.step):
            here = d == number
            busy = (self.decode[layers, d, s] * here).sum(axis=1)
            worst = np.maximum(worst, busy + step * (here & entered).sum(axis=1))
        return worst

    def _interfaces(self, d: Numbers) -> NDArray[np.float64]:
        """The interface that takes longest over all that one device sends, or receives, in a round:
        bytes counted, then divided."""
        sent, received = (np.zeros((len(d), len(self.names))) for _ in range(2))
        home = np.full(len(d), self.source)
        hops = [(a, b, self.hidden_bytes) for a, b in zip(d.T, d.T[1:], strict=False)]
        ends = [(home, d[:, 0], self.token_bytes), (d[:, -1], home, self.token_bytes)]
        for a, b, count in (*hops, *ends):
            rows = np.flatnonzero(a != b)
            sent[rows, a[rows]] += count
            received[rows, b[rows]] += count
        return (np.maximum(sent, received) / self.interface).max(axis=1)

    def scores(self, d: Numbers, s: Numbers) -> NDArray[np.float64]:
        """What the problem's objective makes small."""
        seconds = self.round_trips(d, s)
        if self.problem.objective is Objective.THROUGHPUT:
            return np.maximum(seconds, self.work.micro_batches * self.bottlenecks(d, s))
        if not self.problem.first_token_weight:
            return seconds
        return seconds + self.problem.first_token_weight * self.first_tokens(d, s)

    def used_bytes(self, d: Numbers, s: Numbers) -> Numbers:
        """Bytes by device. Embedding and head are shared only if one stage holds both."""
        used = np.empty((len(d), len(self.names)), dtype=np.int64)
        for number in range(len(self.names)):
            here = d == number
            layers = (here * self.values * self.width[s]).sum(axis=1)
            sharing = here.all(axis=1) & (s[:, 0] == s[:, -1])
            layers -= sharing * self.shared * self.width[s[:, 0]]
            used[:, number] = layers + self.workspace * here.any(axis=1)
        return used

    def fitting(self, d: Numbers, s: Numbers) -> NDArray[np.bool_]:
        return (self.used_bytes(d, s) <= self.memory).all(axis=1)

    def total_losses(self, d: Numbers, s: Numbers) -> NDArray[np.float64]:
        return self.losses[np.arange(s.shape[1]), s].sum(axis=1)

    def allowed(self, d: Numbers, s: Numbers) -> NDArray[np.bool_]:
        """Whether placements keep to the links, the pins, the budget and the devices asked for."""
        problem = self.problem
        good = np.isfinite(self.round_trips(d, s))
        if math.isfinite(problem.budget):
            good &= self.total_losses(d, s) <= problem.budget * (1 + 1e-9)
        for layer, name in problem.pinned.items():
            good &= d[:, layer] == self.names.index(name)
        for name in problem.forbidden:
            good &= (d != self.names.index(name)).all(axis=1)
        for name in problem.required:
            good &= (d == self.names.index(name)).any(axis=1)
        return good

    def seconds(self, devices: Sequence[str], schemes: Sequence[str] = ()) -> float:
        return float(self.round_trips(*self.rows(devices, schemes))[0])

    def room(self, name: str) -> int:
        """Bytes that a device may hold."""
        return int(self.memory[self.names.index(name)])

    def fits(self, devices: Sequence[str], schemes: Sequence[str] = ()) -> bool:
        return bool(self.fitting(*self.rows(devices, schemes))[0])

    def used(self, devices: Sequence[str], schemes: Sequence[str] = ()) -> dict[str, int]:
        used = self.used_bytes(*self.rows(devices, schemes))[0]
        return {name: int(used[self.names.index(name)]) for name in devices}


def _named(problem: Problem, kind: LayerKind, name: str) -> str:
    """What a profile calls a layer with what adapters have it do."""
    extra = problem.costs.workload.extra
    if kind is LayerKind.HEAD and extra.exits:
        return f"{name}, {extra.exits} exits"
    if kind is LayerKind.BLOCK and extra.exits > 1:
        ranks = sum(part.rank for part in extra.added)
        name = f"{name}, {extra.exits} windows of ranks {ranks}"
    if kind is LayerKind.BLOCK and extra.private:
        parts = " ".join(" ".join(x) for x in extra.private.matrices)
        return f"{name}, private {parts} of rank {extra.private.rank}"
    return name


def _trips(problem: Problem, device: int, tokens: int) -> float:
    """To the source and back, for every matrix that something private is added to."""
    private, cluster = problem.costs.workload.extra.private, problem.costs.cluster
    source = [x.name for x in cluster.devices].index(cluster.source)
    total = 0.0
    for parts in private.matrices if private else ():
        there, _ = _hops(problem, 4 * len(parts) * private.rank * tokens)
        total += there[device, source] + there[source, device]
    return total


def _hops(problem: Problem, count: int) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Seconds of `count` bytes between any two devices, infinite where nothing joins them: as
    measured, else as the link says, else as the first network says, and no faster than the
    interfaces at its ends. And without the latency."""
    cluster = problem.costs.cluster
    names = [device.name for device in cluster.devices]
    rates: dict[tuple[str, str], tuple[float, float]] = {(name, name): (0, 1e300) for name in names}
    for network in reversed(cluster.networks):
        for a, b in product(network.devices, repeat=2):
            if a != b:
                rates[a, b] = (network.latency_seconds, network.bytes_per_second)
    for link in (*cluster.links, *problem.costs.profile.links):
        rates[link.source, link.target] = (link.latency_seconds, link.bytes_per_second)
    for a, b in rates:
        if a != b and a in names and b in names:
            ends = (cluster.device(x).interface_bytes_per_second for x in (a, b))
            rates[a, b] = (rates[a, b][0], min(rates[a, b][1], *ends))
    table, busy = (np.full((len(names), len(names)), math.inf) for _ in range(2))
    for (a, b), (latency, rate) in rates.items():
        if a in names and b in names:
            busy[names.index(a), names.index(b)] = count / rate
            table[names.index(a), names.index(b)] = latency + count / rate
    return table, np.where(np.isfinite(busy), busy, 0.0)


def brute_force(
    problem: Problem, *, memory: bool = True, among: Choice | None = None
) -> Placement | None:
    """The best of all placements that keep to the problem, None where none does.

    Devices may be visited again, and every layer may take any scheme. Without `memory`, every
    device counts as large enough; `among` says which placements count.
    """
    sums = Arithmetic(problem)
    d, s = placements(sums, memory=memory, among=among)
    if not len(d):
        return None
    scores = sums.scores(d, s)
    best = int(np.argmin(scores))
    devices = tuple(sums.names[i] for i in d[best])
    names = tuple(problem.schemes[i] for i in s[best])
    return Placement(devices, names, sums.seconds(devices, names), float(scores[best]))


def placements(
    sums: Arithmetic, *, memory: bool = True, among: Choice | None = None
) -> tuple[Numbers, Numbers]:
    """All placements that keep to the problem, as the tables of their rows."""
    problem, layers = sums.problem, sums.problem.num_layers
    everywhere, schemes = range(len(sums.names)), range(len(problem.schemes))
    pinned = {layer: [sums.names.index(name)] for layer, name in problem.pinned.items()}
    choices = [pinned.get(layer, everywhere) for layer in range(layers)] + [schemes] * layers
    tables = np.stack([x.ravel() for x in np.meshgrid(*choices, indexing="ij")], axis=1)
    d, s = tables[:, :layers], tables[:, layers:]
    for rule in (among, sums.allowed, sums.fitting if memory else None):
        if rule is not None:
            kept = rule(d, s)
            d, s = d[kept], s[kept]
    return d, s
