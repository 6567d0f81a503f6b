"""EdgeShard's latency problem P1 (arXiv 2405.14371, section 1.3 of the notes), solved exactly.

    min over paths p    first(p_0) + sum_i t(i, p_i) + sum_i enter(p_i-1, p_i) + back(p_N-1)
    subject to          sum of size_i over {i : p_i = j}  <=  room_j          for every device j

Algorithm 1 keeps one path per (layer, device). Here a label (layer, device, memory left on every
device) is dropped only when another costs no more and leaves no device less, or when

    cost + h_l(layer, device) - sum_j l_j left_j  >=  the best plan known

where h_l is the same problem's dynamic program without memory, each byte on j costing l_j: a
Lagrangian bound, its prices l found by subgradients (Held and Karp 1971). Memory left counts only
up to what some subset of the remaining layers can fill, so equal layers make equal labels, and
equal devices are sorted. A beam keeps the labels of least bound and remembers the least bound that
it dropped: the plan is optimal if that is no better; if it is, HiGHS goes on from there with
the program of placement.py, and the plan is optimal or bounded by what HiGHS proves.
"""

import dataclasses
import time
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np

from edgewise.errors import Infeasible
from edgewise.planning.dilemma import placement_of
from edgewise.planning.highs import Solution
from edgewise.planning.labels import canonical, subset_sums, trace, undominated, useful
from edgewise.planning.placement import solve
from edgewise.planning.problem import Objective, PlanResult, Problem, with_uniform_schemes
from edgewise.planning.tables import (
    INFINITY,
    Floats,
    Ints,
    equal_devices,
    latency,
    tables,
    why_infeasible,
)

BEAMS = (60, 600)
SUBGRADIENT_STEPS = 120


def edgeshard_exact(problem: Problem, time_limit: float = 60.0) -> PlanResult:
    """The fastest placement in one scheme throughout; devices may be visited again. Raises
    Infeasible where none exists, or none is found in `time_limit` seconds."""
    arrays, lowest = tables(problem), [INFINITY]
    costs, groups = latency(arrays, problem.first_token_weight), equal_devices(problem, arrays)
    end = time.perf_counter() + time_limit

    def place(scheme: str) -> tuple[Sequence[str], str, str]:
        s = arrays.schemes.index(scheme)
        seconds = np.where(arrays.allowed, costs.seconds[s], INFINITY)
        chain = Chain(
            seconds, costs.enter, costs.first, costs.back, arrays.size[s], arrays.room, groups
        )
        search = _Search(chain, np.flatnonzero(arrays.required), end)
        search.try_alone(int(arrays.shared[s]))
        search.run()
        if search.lower < search.best * (1 - 1e-9) and (left := end - time.perf_counter()) > 1:
            one = dataclasses.replace(problem, schemes=(scheme,), pins=problem.pins)
            start = None if search.path is None else (search.path, [0] * len(search.path))
            search.adopt(*solve(placement_of(one, tables(one)), left, start))
        lowest.append(min(search.lower, search.best))
        if search.path is None and search.lower < INFINITY:
            raise Infeasible(f"found no plan in {scheme} in time, and no proof that there is none")
        if search.path is None:
            raise why_infeasible(problem, arrays)
        why = f"{search.labels} labels; nothing is faster than {search.lower:.4g} s"
        return [arrays.names[j] for j in search.path], "optimal", why

    result = with_uniform_schemes(problem, "edgeshard-exact", place)
    latency_of_one = problem.objective is Objective.LATENCY and len(problem.schemes) == 1
    if not (latency_of_one and problem.is_sum):
        # Of all plans with one scheme throughout it is the best; mixed ones may be better.
        return dataclasses.replace(result, status="heuristic", gap=None)
    gap = max(1 - min(lowest) / max(problem.score(result.estimate), 1e-300), 0.0)
    if gap > 1e-9:
        return dataclasses.replace(result, status="bounded", gap=gap)
    return result


@dataclass(frozen=True, slots=True)
class Chain:
    """The problem in one scheme: `seconds[i, j]`, `enter[j, k]`, `first[j]`, `back[j]`, `size[i]`,
    `room[j]`, and groups of equal devices."""

    seconds: Floats
    enter: Floats
    first: Floats
    back: Floats
    size: Ints
    room: Ints
    groups: tuple[tuple[int, ...], ...]

    def priced(self, prices: Floats) -> tuple[list[Floats], list[Ints]]:
        """h_l(i, j), the cheapest completion after layer i on j, and the next device in it."""
        togo, following = [self.back], []
        for i in range(len(self.size) - 1, 0, -1):
            through = self.enter + (self.seconds[i] + prices * self.size[i] + togo[-1])
            following.append(through.argmin(axis=1))
            togo.append(through.min(axis=1))
        return togo[::-1], following[::-1]

    def total(self, path: Sequence[int]) -> float:
        ends = float(self.first[path[0]] + self.back[path[-1]])
        hops = sum(float(self.enter[a, b]) for a, b in pairwise(path))
        return ends + hops + sum(float(self.seconds[i, j]) for i, j in enumerate(path))


class _Search:
    """Labels of one layer are rows of arrays; `best` and `lower` close in on the optimum."""

    def __init__(self, chain: Chain, required: Ints, end: float) -> None:
        self.chain, self.required, self.end = chain, required, end
        self.best, self.lower, self.labels = INFINITY, 0.0, 0
        self.path: list[int] | None = None
        self.sums = subset_sums(chain.size)
        self.group = np.array(
            [min(g) for j in range(len(chain.room)) for g in chain.groups if j in g]
        )
        self.prices: list[Floats] = [np.zeros(len(chain.room))]

    def try_alone(self, shared: int) -> None:
        """Everything on one device, where a tied model takes `shared` bytes less."""
        for j in range(len(self.chain.room)):
            fits = self.chain.size.sum() - shared <= self.chain.room[j]
            if fits and set(self.required.tolist()) <= {j}:
                self._offer([j] * len(self.chain.size))

    def run(self) -> None:
        self._improve_prices()
        self.bounds = [self.chain.priced(prices)[0] for prices in self.prices]
        for beam in BEAMS:
            self.lower = min(self._sweep(beam), self.best)
            if self.lower >= self.best * (1 - 1e-12) or time.perf_counter() > self.end:
                break

    def adopt(self, solved: Solution, path: list[int], _: list[int]) -> None:
        """What HiGHS makes of the same problem."""
        if path:
            self._offer(path)
            self.lower = max(self.lower, self.best * (1 - (solved.gap or 0.0)))
        elif solved.status == "infeasible":
            self.lower = INFINITY

    def _offer(self, path: list[int]) -> None:
        total = self.chain.total(path)
        if total < self.best:
            self.best, self.path = total, path

    def _improve_prices(self) -> None:
        """Subgradient ascent on the prices of memory; its paths that fit are plans."""
        chain, scale = self.chain, max(int(self.chain.size.sum()), 1)
        room = np.clip(chain.room, 0, scale) / scale
        prices, highest, step = np.zeros(len(room)), -INFINITY, 1.0
        for number in range(SUBGRADIENT_STEPS):
            togo, following = chain.priced(prices / scale)
            starts = chain.first + chain.seconds[0] + prices / scale * chain.size[0] + togo[0]
            path = [int(starts.argmin())]
            bound = float(starts.min() - prices @ room)
            if not bound < INFINITY:
                return  # nothing connects the layers
            for after in following:
                path.append(int(after[path[-1]]))
            used = np.bincount(path, chain.size, len(room)) / scale
            if (used <= room).all() and set(self.required.tolist()) <= set(path):
                self._offer(path)
            if bound > highest:
                highest = bound
                self.prices[1:] = [prices / scale] if number else []
            else:
                step *= 0.95
            slope = np.where((prices > 0) | (used > room), used - room, 0.0)
            if not slope.any() or highest >= self.best * (1 - 1e-12):
                return
            target = self.best if self.best < INFINITY else 1.1 * max(highest, 1e-12)
            length = step * max(target - bound, 1e-3 * abs(target)) / float(slope @ slope)
            prices = np.maximum(prices + length * slope, 0.0)

    def _sweep(self, beam: int) -> float:
        """One pass over the layers. Returns the least bound of the labels that did not fit in."""
        chain = self.chain
        cost, left = np.zeros(1), np.maximum(chain.room, 0)[None, :].astype(np.int64)
        device, seen = np.full(1, -1), np.zeros((1, len(self.required)), dtype=bool)
        history: list[tuple[Ints, Ints]] = []
        dropped = INFINITY
        for i in range(len(chain.size)):
            enter = chain.enter[device] if i else chain.first[None, :]
            costs = cost[:, None] + enter + chain.seconds[i]
            costs[left < chain.size[i]] = INFINITY
            parent, device = np.nonzero(costs < INFINITY)
            cost, left = costs[parent, device], left[parent].copy()
            left[np.arange(len(left)), device] -= chain.size[i]
            left = useful(left, self.sums[i])
            seen = seen[parent] | (device[:, None] == self.required)
            bound = self._bound(i, cost, device, left)
            keep = np.flatnonzero(bound < self.best * (1 - 1e-12))
            keep = keep[np.argsort(bound[keep], kind="stable")]
            key = np.column_stack((canonical(left, device, chain.groups), seen))
            keep = keep[undominated(self.group[device[keep]], cost[keep], key[keep], 2 * beam)]
            if len(keep) > beam or time.perf_counter() > self.end:
                size = beam if time.perf_counter() <= self.end else BEAMS[0]
                dropped = min([dropped, *bound[keep[size:]].tolist()])
                keep = keep[:size]
            cost, left, device, seen = cost[keep], left[keep], device[keep], seen[keep]
            history.append((parent[keep], device))
            self.labels += len(keep)
        ends = np.where(seen.all(axis=1), cost + chain.back[device], INFINITY)
        if len(ends) and ends.min() < INFINITY:
            self._offer(trace(history, int(ends.argmin())))
        return dropped

    def _bound(self, i: int, cost: Floats, device: Ints, left: Ints) -> Floats:
        bound = np.full(len(cost), -INFINITY)
        for togo, prices in zip(self.bounds, self.prices, strict=True):
            bound = np.maximum(bound, cost + togo[i][device] - left @ prices)
        # What is left must hold the remaining layers, and the larger of them piece by piece.
        rest = self.chain.size[i + 1 :]
        bound[left.sum(axis=1) < rest.sum()] = INFINITY
        if len(rest) and (piece := int(np.median(rest))) > 0:
            pieces = (left // piece).sum(axis=1)
            bound[pieces < np.count_nonzero(rest >= piece)] = INFINITY
        return bound
