"""The best walk over devices, again and again: the program of walk_program.py, cut where a solution
is in pieces, without the walks that were looked at.
"""

import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from edgewise.planning.highs import Solution
from edgewise.planning.joint.graphs import euler, pieces, reached_from
from edgewise.planning.joint.view import View
from edgewise.planning.joint.walk_program import SHORTER, WalkProgram
from edgewise.planning.tables import INFINITY, Floats, Ints

SHARES = (1e-6, 0.1, 0.3, 0.5)  # of a move, that count as one where pieces are looked for
VIOLATED = 1e-3
MOST_CUTS = 30  # times that a walk in pieces is cut off


@dataclass(frozen=True, slots=True)
class Walk:
    """Groups in the order of visits, the moves between them, and whether these allow no other
    order."""

    order: tuple[int, ...]
    moves: tuple[tuple[int, int], ...]
    only: bool


class Walks:
    """Bounds on all plans, and walks to look at."""

    def __init__(self, view: View) -> None:
        self._view, self._rows = view, WalkProgram(view)
        self._program = self._rows.program

    def best(self, nodes: int, time_limit: float) -> tuple[float, Walk | None]:
        """A bound in seconds on all plans whose walk was not excluded, infinite if there is none,
        and the walk to look at next."""
        bound, end = 0.0, time.perf_counter() + time_limit
        self._connect(time_limit)
        for _ in range(MOST_CUTS):
            left = max(end - time.perf_counter(), 0.01)
            solved = self._program.solve(left, nodes=nodes, gap=1e-4)
            bound = max(bound, self._bound(solved))
            if solved.status in ("infeasible", "unknown"):
                return bound, None
            walk = self._read(solved)
            if walk is not None:
                return bound, walk
        return bound, None

    def relaxed(self, time_limit: float) -> float:
        """A bound on all plans, from moves and devices in part, too, infinite if there is none."""
        self._connect(time_limit)
        return max(self._bound(self._program.solve(time_limit, relaxed=True)), 0.0)

    def _bound(self, solved: Solution) -> float:
        """Seconds, less what moves cost besides."""
        trifle = SHORTER if self._view.lanes > 1 else 0.0
        return solved.bound * self._view.scale / (1 + trifle)

    def exclude(self, walk: Walk) -> None:
        """Never again just these moves, from that device to that one."""
        made = Counter(walk.moves)
        yes = [self._rows.f[walk.order[0]], self._rows.e[walk.order[-1]]]
        no = list[Ints]()
        for m, pair in enumerate(self._rows.moves):
            (yes if pair in made else no).append(self._rows.a[m])
            for times in range(1, made[pair]):
                yes.append(self._rows.beyond(m, times))
            no.append(self._rows.beyond(m, made[pair]) if made[pair] > 1 else self._rows.b[m])
        self._program.row(1.0 - len(yes), INFINITY, (np.array(yes), -1.0), (np.array(no), 1.0))

    def _connect(self, time_limit: float) -> None:
        """Rows where the relaxation's walk is in pieces, or nearly: seen through moves that it
        makes at least so far."""
        for _ in range(MOST_CUTS):
            solved = self._program.solve(time_limit, relaxed=True)
            if solved.status != "optimal":
                return
            made = solved.values[self._rows.a] + solved.values[self._rows.b]
            cuts = {cut for share in SHARES for cut in self._cut_off(solved.values, made, share)}
            if not cuts:
                return
            for some, g in sorted(cuts):
                self._rows.reach(some, [g])

    def _cut_off(
        self, values: Floats, made: Floats, share: float
    ) -> Iterator[tuple[tuple[int, ...], int]]:
        """Groups that moves made less than `share` times lead to, and one of them that is used more
        than all of these allow."""
        moves = [pair for pair, times in zip(self._rows.moves, made, strict=True) if times > share]
        begun = [g for g, x in enumerate(values[self._rows.f]) if x > share]
        reached = set().union(*(reached_from(g, moves) for g in begun))
        outside = [g for g in range(len(self._view.groups)) if g not in reached]
        for piece in pieces(outside, moves):
            into = sum(
                times
                for (g, h), times in zip(self._rows.moves, made, strict=True)
                if h in piece and g not in piece
            )
            into += values[self._rows.f][list(piece)].sum()
            for g in piece:
                if values[self._rows.y[g]] / len(self._view.groups[g]) > into + VIOLATED:
                    yield piece, g

    def _read(self, solved: Solution) -> Walk | None:
        """The walk of a solution; where it is in pieces, these are cut off."""
        values = np.round(solved.values).astype(np.int64)
        times = values[self._rows.a] + values[self._rows.b]
        moves = [
            pair for pair, count in zip(self._rows.moves, times, strict=True) for _ in range(count)
        ]
        first = int(values[self._rows.f].argmax())
        reached = reached_from(first, moves)
        lost = [
            g for g in range(len(self._view.groups)) if values[self._rows.y][g] and g not in reached
        ]
        if not lost:
            order = euler(first, [pair for pair in moves if pair[0] in reached])
            only = len(set(order[:-1])) == len(order) - 1
            return Walk(order, tuple(moves), only)
        self._rows.reach([g for g in range(len(self._view.groups)) if g not in reached], lost)
        return None
