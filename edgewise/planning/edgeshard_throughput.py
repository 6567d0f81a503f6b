"""EdgeShard's throughput dynamic program (arXiv 2405.14371, Algorithm 2; sections 1.3, 1.5).

Every device holds at most one block of neighbouring layers; sending and computing overlap, so the
slowest of them all sets the pace:

    g(0, {}, -)       = 0
    g(m', S + k, k)   = min over m < m', j in S of max(g(m, S, j), stage(m, m', k), busy(j, k))
    least bottleneck  = min over S, j of max(g(N, S, j), what the token's way back occupies)

busy is how long a hop occupies its link: the paper's transfers have no latency, and here latency
keeps nobody busy (edgewise/costs.py). stage(m, m', k) is what device k takes for layers m..m'-1,
its step included, infinite without room or against a pin. Equal devices are one type and S counts
them (PipeEdge's state collapse), which loses nothing: product of (n_t + 1) states instead of 2^M.
O(N^2) work for each state and type.

The program leaves ties: a second pass, with + for max, whole hops, and stages and hops that are
busy for longer than the least bottleneck forbidden, takes the tied plan with the shortest round
trip.
"""

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import product
from math import prod

import numpy as np

from edgewise.planning.problem import PlanResult, Problem, with_uniform_schemes
from edgewise.planning.tables import (
    INFINITY,
    Bools,
    Floats,
    Tables,
    equal_devices,
    tables,
    why_infeasible,
)

MOST_SETS = 2**15

Block = tuple[int, int, int]  # type, first layer, end


def edgeshard_throughput(problem: Problem) -> PlanResult:
    """The plan of least bottleneck among those with one block per device and one scheme; the
    shortest round trip of several. Raises Infeasible where none exists."""
    arrays = tables(problem)
    groups, _ = _few_enough(equal_devices(problem, arrays), arrays)

    def place(scheme: str) -> tuple[Sequence[str], str, str]:
        s = arrays.schemes.index(scheme)
        bottleneck = _program(arrays, s, groups, INFINITY, busy=True).solve(np.maximum)[0]
        if bottleneck == INFINITY:
            raise why_infeasible(problem, arrays)
        tied = _program(arrays, s, groups, bottleneck * (1 + 1e-12), busy=False)
        _, blocks = tied.solve(np.add)
        why = f"no plan in {scheme} has a bottleneck under {bottleneck:.4g} s"
        return [arrays.names[j] for j in _devices(blocks, groups)], "optimal", why

    result = with_uniform_schemes(problem, "edgeshard-throughput", place)
    # Plans with several blocks on a device, or several schemes, may be better.
    return dataclasses.replace(result, status="heuristic", gap=None)


@dataclass(frozen=True, slots=True)
class BlockProgram:
    """`stage[t, m, m']` seconds of layers m..m'-1 on a device of type t, `hop[t, u]` to another
    device, `entry[t]` and `back[t]`; `counts[t]` devices of each type, some of which must be used.
    """

    stage: Floats
    hop: Floats
    entry: Floats
    back: Floats
    counts: tuple[int, ...]
    required: Bools

    def solve(self, combine: np.ufunc) -> tuple[float, list[Block]]:
        """The least value (infinite if there is none) and its blocks. `combine` is maximum for the
        bottleneck, add for the round trip."""
        stage, hop = self.stage, self.hop
        values: dict[tuple[int, ...], Floats] = {}
        best, at = INFINITY, ((0,) * len(self.counts), 0)
        for chosen in sorted(product(*(range(n + 1) for n in self.counts)), key=sum):
            value = np.full(stage.shape[:2], INFINITY)
            for k in range(len(chosen)):
                if chosen[k]:
                    arrive = self._arrive(values, chosen, k, combine, hop)
                    value[k] = combine(arrive[:, None], stage[k]).min(axis=0)
            value[value >= best] = INFINITY
            if not (value < INFINITY).any():
                continue
            values[chosen] = value
            done = combine(value[:, -1], self.back)
            complete = all(n for n, must in zip(chosen, self.required, strict=True) if must)
            if complete and done.min() < best:
                best, at = float(done.min()), (chosen, int(done.argmin()))
        if best == INFINITY:
            return best, []
        return best, self._trace(values, *at, combine, stage, hop)

    def _arrive(
        self,
        values: dict[tuple[int, ...], Floats],
        chosen: tuple[int, ...],
        k: int,
        combine: np.ufunc,
        hop: Floats,
    ) -> Floats:
        """For every m, the best value of layers 0..m-1 once their output has come to type k."""
        before = (*chosen[:k], chosen[k] - 1, *chosen[k + 1 :])
        arrive = np.full(self.stage.shape[1], INFINITY)
        if sum(before) == 0:
            arrive[0] = self.entry[k]
        elif before in values:
            arrive = combine(values[before], hop[:, k, None]).min(axis=0)
        return arrive

    def _trace(
        self,
        values: dict[tuple[int, ...], Floats],
        chosen: tuple[int, ...],
        k: int,
        combine: np.ufunc,
        stage: Floats,
        hop: Floats,
    ) -> list[Block]:
        blocks: list[Block] = []
        end = stage.shape[1] - 1
        while True:
            arrive = self._arrive(values, chosen, k, combine, hop)
            start = int(combine(arrive, stage[k, :, end]).argmin())
            blocks.append((k, start, end))
            chosen = (*chosen[:k], chosen[k] - 1, *chosen[k + 1 :])
            if start == 0:
                return blocks[::-1]
            k, end = int(combine(values[chosen][:, start], hop[:, k]).argmin()), start


def _program(
    arrays: Tables, s: int, groups: tuple[tuple[int, ...], ...], limit: float, *, busy: bool
) -> BlockProgram:
    """With how long hops occupy links (`busy`) or with how long they take; stages and hops that are
    busy for longer than `limit` are forbidden."""
    first = [group[0] for group in groups]
    other = [group[-1] for group in groups]

    def within(whole: Floats, occupied: Floats) -> Floats:
        bad = (occupied > limit) | (whole == INFINITY)
        return np.where(bad, INFINITY, occupied if busy else whole)

    between = within(arrays.hop, arrays.busy)
    hop = between[np.ix_(first, first)]
    for t, (a, b) in enumerate(zip(first, other, strict=True)):
        hop[t, t] = between[a, b] if a != b else INFINITY
    stage = np.array([_stages(arrays, s, j) for j in first])
    return BlockProgram(
        stage=np.where(stage > limit, INFINITY, stage),
        hop=hop,
        entry=within(arrays.entry, arrays.entry_busy)[first],
        back=within(arrays.back, arrays.back_busy)[first],
        counts=tuple(len(group) for group in groups),
        required=arrays.required[first],
    )


def _stages(arrays: Tables, s: int, j: int) -> Floats:
    """Seconds of layers m..m'-1 on device j, at [m, m']."""
    seconds = np.concatenate(([0.0], arrays.decode[s, :, j].cumsum()))
    size = np.concatenate(([0], arrays.size[s].cumsum()))
    against = np.concatenate(([0], (~arrays.allowed[:, j]).cumsum()))
    needed = size[None, :] - size[:, None]
    needed[0, -1] -= arrays.shared[s]
    stage = arrays.step[j] + seconds[None, :] - seconds[:, None]
    bad = (needed > arrays.room[j]) | (against[None, :] > against[:, None])
    bad |= np.tri(len(size), dtype=bool)
    return np.where(bad, INFINITY, stage)


def _few_enough(
    groups: tuple[tuple[int, ...], ...], arrays: Tables
) -> tuple[tuple[tuple[int, ...], ...], bool]:
    """Groups with at most MOST_SETS sets, the slowest devices left out; whether all are in."""
    kept, whole = [list(group) for group in groups], True
    pinned = arrays.allowed[arrays.allowed.sum(axis=1) == 1].any(axis=0)
    while prod(len(group) + 1 for group in kept) > MOST_SETS:
        spare = [g for g in kept if not (pinned[g[0]] or arrays.required[g[0]])]
        if not spare:
            break
        slowest = max(spare, key=lambda g: float(arrays.decode[0, :, g[0]].sum()))
        slowest.pop()
        kept, whole = [group for group in kept if group], False
    return tuple(tuple(group) for group in kept), whole


def _devices(blocks: list[Block], groups: tuple[tuple[int, ...], ...]) -> list[int]:
    """The device of every layer; blocks of one type take its devices in turn."""
    left = [list(group) for group in groups]
    return [j for t, start, end in blocks for j in [left[t].pop(0)] * (end - start)]
