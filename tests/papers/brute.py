"""The truth about a small problem: try every placement. Adds seconds and bytes up by itself."""

import numpy as np
from numpy.typing import NDArray

from edgewise.planning import Objective, Problem
from edgewise.plans import Plan
from edgewise.schemes import get_scheme
from edgewise.specs import LayerKind, ModelSpec, Workload

INFINITY = float("inf")
Array = NDArray[np.float64]
Indices = NDArray[np.int64]


class EveryPlan:
    """All placements of a problem, one a row, and what each costs. Uses the profile's times, but
    not the package's cost model."""

    def __init__(self, problem: Problem, *, per_layer: bool = False) -> None:
        self.problem, costs = problem, problem.costs
        self.names = [device.name for device in costs.cluster.devices]
        count, layers = len(self.names), problem.num_layers
        choices = count * (len(problem.schemes) if per_layer else 1)
        codes = np.indices((choices,) * layers).reshape(layers, -1).T
        if per_layer:
            self.device, self.scheme = codes % count, codes // count
        else:
            self.device = np.tile(codes, (len(problem.schemes), 1))
            repeated = np.repeat(np.arange(len(problem.schemes)), len(codes))
            self.scheme = np.broadcast_to(repeated[:, None], self.device.shape)
        self._seconds()
        self._feasible()

    def _seconds(self) -> None:
        problem, costs = self.problem, self.problem.costs
        profile, work, model = costs.profile, costs.workload, costs.model
        kinds = {device.name: device.kind for device in costs.cluster.devices}
        batch = -(-work.sequences // work.micro_batches)
        middle = work.prompt_tokens + work.new_tokens // 2
        rows = len(self.device)
        self.step = np.array([profile.reading(kinds[n]).step_seconds for n in self.names])
        hop, occupied = self._hops(batch * model.hidden_size * 4)
        prompt_hop, prompt_occupied = self._hops(batch * work.prompt_tokens * model.hidden_size * 4)
        token, token_occupied = self._hops(batch * 8, inside=True)
        source = self.names.index(problem.source)
        busy, filling = np.zeros((rows, len(self.names))), np.zeros((rows, len(self.names)))
        first, last = self.device[:, 0], self.device[:, -1]
        ids, _ = self._hops(batch * work.prompt_tokens * 8, inside=True)
        self.decode = token[source, first] + token[last, source]
        self.prefill = ids[source, first] + token[last, source]
        # What each link carries in a round, together; the ways in and out on the source apart.
        count = len(self.names)
        carried, carried_prompt = np.zeros((2, rows, count + 1, count + 1))
        every = np.arange(rows)
        start = np.where(first == source, count, source)
        end = np.where(last == source, count, source)
        carried[every, start, first] += token_occupied[source, first]
        carried[every, last, end] += token_occupied[last, source]
        starts = np.ones(rows, dtype=bool)
        for i, (spec, layer) in enumerate(zip(model.layers, model.classes, strict=True)):
            here, scheme = self.device[:, i], self.scheme[:, i]
            if i:
                before = self.device[:, i - 1]
                starts = before != here
                move = np.where(starts, hop[before, here], 0.0)
                self.decode += move
                prompt = np.where(starts, prompt_hop[before, here], 0.0)
                self.prefill += prompt
                moved = np.where(starts, occupied[before, here], 0.0)
                carried[every, before, here] += moved
                moved = np.where(starts, prompt_occupied[before, here], 0.0)
                carried_prompt[every, before, here] += moved
            times = np.array([
                [profile.decode_seconds(kinds[n], layer, s, middle, batch) for n in self.names]
                for s in problem.schemes
            ])  # fmt: skip
            fresh = np.array([
                [profile.decode_seconds(kinds[n], layer, s, work.prompt_tokens, batch)
                 if spec.kind is LayerKind.HEAD
                 else profile.prefill_seconds(kinds[n], layer, s, work.prompt_tokens, batch)
                 for n in self.names]
                for s in problem.schemes
            ])  # fmt: skip
            woken = np.where(starts, self.step[here], 0.0)
            busy[np.arange(rows), here] += times[scheme, here] + woken
            filling[np.arange(rows), here] += fresh[scheme, here] + woken
        self.decode += busy.sum(axis=1)
        self.prefill += filling.sum(axis=1)
        slowest = [x.reshape(rows, -1).max(axis=1) for x in (carried, carried_prompt)]
        self.bottleneck = np.maximum(busy.max(axis=1), slowest[0])
        self.prefill_bottleneck = np.maximum(filling.max(axis=1), slowest[1])

    def _hops(self, count: int, *, inside: bool = False) -> tuple[Array, Array]:
        """Seconds until so many bytes arrive, and those for which they occupy the link."""
        links = {(x.source, x.target): x for x in self.problem.costs.profile.links}
        hops, busy = np.full((2, len(self.names), len(self.names)), INFINITY)
        for a, start in enumerate(self.names):
            for b, end in enumerate(self.names):
                if a == b and not (inside and (start, end) in links):
                    hops[a, b] = busy[a, b] = 0.0
                elif (start, end) in links:
                    link = links[start, end]
                    busy[a, b] = count / link.bytes_per_second
                    hops[a, b] = link.latency_seconds + busy[a, b]
        return hops, busy

    def _feasible(self) -> None:
        problem, costs = self.problem, self.problem.costs
        layers, rows = problem.num_layers, np.arange(len(self.device))
        size = layer_bytes(costs.model, costs.workload, problem.schemes)
        used = np.zeros((len(rows), len(self.names)), dtype=np.int64)
        self.loss = np.zeros(len(rows))
        for i in range(layers):
            used[rows, self.device[:, i]] += size[self.scheme[:, i], i]
            if costs.sensitivity is not None:
                losses = np.array([costs.sensitivity.losses[s][i] for s in problem.schemes])
                self.loss += losses[self.scheme[:, i]]
        taken = np.array([(self.device == j).any(axis=1) for j in range(len(self.names))]).T
        alone = taken.sum(axis=1) == 1
        if costs.model.tied:
            numbers, columns = costs.model.layers[0].matrices[0]
            bits = np.array([get_scheme(s).bits for s in problem.schemes])
            same = self.scheme[:, 0] == self.scheme[:, -1]
            saved = np.where(alone & same, numbers * columns * bits[self.scheme[:, 0]] // 8, 0)
            used[rows, self.device[:, 0]] -= saved
        used += np.where(taken, workspace(costs.model, costs.workload), 0)
        memory = np.array([device.memory_bytes for device in costs.cluster.devices])
        index = {name: j for j, name in enumerate(self.names)}
        good = (used <= memory).all(axis=1) & (self.loss <= problem.budget)
        good &= self.decode < INFINITY
        for layer, name in problem.pinned.items():
            good &= self.device[:, layer] == index[name]
        for name in problem.forbidden:
            good &= ~taken[:, index[name]]
        for name in problem.required:
            good &= taken[:, index[name]]
        self.feasible = good
        moves = (self.device[:, 1:] != self.device[:, :-1]).sum(axis=1)
        self.one_block = moves + 1 == taken.sum(axis=1)
        self.taken = taken

    def score(self) -> Array:
        work = self.problem.costs.workload
        if self.problem.objective is Objective.THROUGHPUT:
            return np.maximum(self.decode, work.micro_batches * self.bottleneck)
        weight = self.problem.first_token_weight
        return self.decode + (weight * self.prefill if weight else 0.0)

    def row(self, plan: Plan) -> int:
        """Where a plan is."""
        device = [self.names.index(stage.device) for stage in plan.stages for _ in stage.schemes]
        scheme = [self.problem.schemes.index(name) for name in plan.schemes]
        same = (self.device == device).all(axis=1) & (self.scheme == scheme).all(axis=1)
        return int(np.flatnonzero(same)[0])

    def makespan(self) -> Array:
        """LLM-PQ's objective as mended, without the loss."""
        work = self.problem.costs.workload
        lanes = work.micro_batches
        rounds = np.maximum(self.decode, lanes * self.bottleneck)
        later = (lanes - 1) * self.prefill_bottleneck if lanes > 1 else 0.0
        return self.prefill + later + (work.new_tokens - 1) * rounds

    def least(self, values: Array, *, one_block: bool = False) -> float:
        """The least of the values over feasible plans, infinite if there is none."""
        mask = self.feasible & self.one_block if one_block else self.feasible
        return float(values[mask].min(initial=INFINITY))


def layer_bytes(model: ModelSpec, work: Workload, schemes: tuple[str, ...]) -> Indices:
    sizes = []
    for scheme in map(get_scheme, schemes):
        width = 4 if scheme.compute == "float32" else 2
        cached = (work.prompt_tokens + work.new_tokens) * work.sequences
        sizes.append([
            sum(rows * columns * scheme.bits // 8 for rows, columns in spec.matrices)
            + width * (spec.other_weights + cached * spec.kv_width)
            for spec in model.layers
        ])  # fmt: skip
    return np.array(sizes)


def workspace(model: ModelSpec, work: Workload) -> int:
    widest = max(rows for spec in model.layers[1:-1] for rows, _ in spec.matrices)
    batch = -(-work.sequences // work.micro_batches)
    chunk = min(work.prompt_tokens, 256) * batch * (2 * widest + 4 * model.hidden_size)
    return 4 * (chunk + batch * model.vocab_size)


def brute_force(problem: Problem, *, per_layer: bool = False, one_block: bool = False) -> float:
    """The best score of any plan, infinite if there is none."""
    plans = EveryPlan(problem, per_layer=per_layer)
    return plans.least(plans.score(), one_block=one_block)
