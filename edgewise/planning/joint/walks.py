"""Which devices, the walk between them, and how many layers each holds in which scheme: everything
but which layers these are. It bounds all plans, and says which orders of devices to look at.

    n[c,s,g]     layers of class c in scheme s on devices of group g      0 or more
    u[i,s]       how far layer i is in scheme s                           0 to 1
    a[g,h]       how often the walk goes on from g at h                   whole
    f[g], e[g]   whether it begins, ends in g                             0 or 1
    y[g]         devices of g that are used                               whole
    v[g]       = f[g] + sum over h of a[h,g], visits

    min z  s.t.  Q z >= sum first f + sum seconds n + sum move a + sum back e        round trip
                 |g| z >= step v[g] + sum decode n[.,.,g],  z >= what a link carries      if Q > 1
                 sum over g of n[c,s,g] = sum over i in c of u[i,s],  sum over s of u[i,s] = 1
                 sum loss u <= budget,  sum size n[.,.,g] <= room y[g]
                 f[g] + sum over h of a[h,g] = e[g] + sum over h of a[g,h]
                 y[g] <= v[g] <= sum n[.,.,g]
                 f, a into S >= y[g] / |g| for g in S, where a solution has S cut off   (Dantzig,
                                                               Fulkerson, Johnson 1954)

Every plan gives such numbers at its own cost, however often it returns to a device. What is lost is
that layers are whole, and neighbours, and that a group's devices are busy and full one by one.
"""

import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import combinations, product

import numpy as np

from edgewise.planning.highs import Program, Solution
from edgewise.planning.joint.view import View
from edgewise.planning.tables import INFINITY, Floats, Ints

FEW = 6  # groups, all of whose subsets are known to be reached from the start; of more, all pairs
SHARES = (1e-6, 0.1, 0.3, 0.5)  # of a move, that count as one where pieces are looked for
VIOLATED = 1e-3
SHORTER = 1e-4
USED = 0.2  # of a device, that counts as one
MOST_CUTS = 30  # times that a walk in pieces is cut off


@dataclass(frozen=True, slots=True)
class Walk:
    """Groups in the order of visits, how many layers each visit has, the moves between them, and
    whether these allow no other order."""

    order: tuple[int, ...]
    layers: tuple[float, ...]
    moves: tuple[tuple[int, int], ...]
    only: bool


class Walks:
    """The program, from which walks that were looked at are excluded one after the other. Layers
    may be divided among devices and schemes unless they are to be `whole`."""

    def __init__(self, view: View, *, whole: bool = False) -> None:
        self._view, self._whole = view, whole
        self._program = Program()
        self._more: dict[tuple[int, int], Ints] = {}
        groups = range(len(view.groups))
        sizes = np.array([len(group) for group in view.groups])
        moves = {(g, h): view.move(g, h) for g, h in product(groups, repeat=2)}
        self._moves = [pair for pair, (seconds, _) in moves.items() if seconds < INFINITY]
        first = np.array([group[0] for group in view.groups])
        begins = np.isfinite(view.costs.first[first]) & view.tables.allowed[0, first]
        ends = np.isfinite(view.costs.back[first]) & view.tables.allowed[-1, first]
        new = self._program.columns
        self._z = new((1,), 1.0, INFINITY, integer=False)
        self._held = self._layers(first)
        # a[m] whether a move is made, and b[m] how often beyond that. Where the period counts,
        # moves cost a trifle, too: no more than SHORTER of any plan's z.
        seconds = np.array([moves[pair][0] for pair in self._moves])
        trifle = seconds / view.unit * SHORTER / view.lanes if view.lanes > 1 else 0.0 * seconds
        self._a = new(trifle.shape, trifle)
        self._b = new(trifle.shape, trifle, view.tables.num_layers)
        self._f = new((len(groups),), 0.0, begins.astype(float))
        self._e = new((len(groups),), 0.0, ends.astype(float))
        self._y = new((len(groups),), 0.0, np.minimum(sizes, view.tables.num_layers))
        self._walk(sizes)
        self._memory(first)
        self._seconds(first, [moves[pair] for pair in self._moves], sizes)
        for count in range(2, FEW if len(groups) <= FEW else 3):
            for some in combinations(groups, count):
                self._reach(some, some)

    def best(self, nodes: int, time_limit: float) -> tuple[float, Walk | None]:
        """A bound in seconds on all plans whose walk was not excluded, infinite if there is none,
        and the walk to look at next."""
        bound = 0.0
        end = time.perf_counter() + time_limit
        self._connect(time_limit)
        for _ in range(MOST_CUTS):
            left = max(end - time.perf_counter(), 0.01)
            solved = self._program.solve(left, nodes=nodes, gap=1e-4)
            if solved.status == "infeasible":
                return INFINITY, None
            bound = max(bound, solved.bound * self._view.scale / (1 + SHORTER))
            if solved.status == "unknown":
                return bound, None
            walk = self._read(solved)
            if walk is not None:
                return bound, walk
        return bound, None

    def relaxed(self, time_limit: float) -> tuple[float, list[int]]:
        """A bound on all plans, from moves and devices in part, too, infinite if there is none; and
        the groups that this has used at least so far."""
        self._connect(time_limit)
        solved = self._program.solve(time_limit, relaxed=True)
        if solved.status == "infeasible":
            return INFINITY, []
        if solved.status != "optimal":
            return 0.0, list(range(len(self._y)))
        used = np.flatnonzero(solved.values[self._y] >= USED).tolist()
        return solved.bound * self._view.scale / (1 + SHORTER), used

    def exclude(self, walk: Walk) -> None:
        """Never again just these moves, from that device to that one."""
        made = Counter(walk.moves)
        yes = [self._f[walk.order[0]], self._e[walk.order[-1]]]
        no = list[Ints]()
        for m, pair in enumerate(self._moves):
            (yes if pair in made else no).append(self._a[m])
            for times in range(1, made[pair]):
                yes.append(self._beyond(m, times))
            no.append(self._beyond(m, made[pair]) if made[pair] > 1 else self._b[m])
        self._program.row(1.0 - len(yes), INFINITY, (np.array(yes), -1.0), (np.array(no), 1.0))

    def raise_bound(self, groups: frozenset[int], seconds: float) -> None:
        """No plan on these devices alone takes less."""
        outside = self._y[[g for g in range(len(self._y)) if g not in groups]]
        if seconds == INFINITY:
            self._program.row(1, INFINITY, (outside, 1.0))
            return
        z = seconds / self._view.scale
        self._program.row(z, INFINITY, (self._z, 1.0), (outside, z))

    def _beyond(self, m: int, times: int) -> Ints:
        """A column that is 1 where a move is made more often than so many times."""
        if (m, times) not in self._more:
            column = self._program.columns(())
            most = float(self._view.tables.num_layers)
            self._program.row(0, INFINITY, (self._b[m], 1.0), (column, -float(times)))
            self._program.row(-INFINITY, times - 1, (self._b[m], 1.0), (column, -most))
            self._more[m, times] = column
        return self._more[m, times]

    # -- the program

    def _layers(self, first: Ints) -> list[Ints]:
        """n[c][s, g], the rows that tie it to u, and the budget."""
        view, program, held = self._view, self._program, list[Ints]()
        loss, budget = view.scored, view.problem.budget
        losing: list[tuple[Ints, Floats]] = []
        for members in view.classes:
            usable = view.usable[:, members][:, :, first]  # [s, i, g]
            most = np.where(usable.any(axis=1), float(len(members)), 0.0)
            held.append(program.columns(most.shape, 0.0, most, integer=self._whole))
            if budget == INFINITY:
                program.row(len(members), len(members), (held[-1], 1.0))
                continue
            possible = usable.any(axis=2).astype(float)
            u = program.columns(possible.shape, 0.0, possible, integer=False)
            for column in u.T:
                program.row(1, 1, (column, 1.0))
            for n, share in zip(held[-1], u, strict=True):
                program.row(0, 0, (n, 1.0), (share, -1.0))
            losing.append((u, loss[:, members]))
        if losing and budget > 0:
            program.row(-INFINITY, 1.0, *((u, values / budget) for u, values in losing))
        return held

    def _on(self, g: int) -> Ints:
        """Columns of all layers on a group."""
        return np.concatenate([n[:, g] for n in self._held])

    def _walk(self, sizes: Ints) -> None:
        program = self._program
        program.row(1, 1, (self._f, 1.0))
        program.row(1, 1, (self._e, 1.0))
        for m in range(len(self._moves)):
            program.row(0, INFINITY, (self._a[m], self._view.tables.num_layers), (self._b[m], -1.0))
        for g, size in enumerate(sizes):
            into, out = self._into(g), self._out(g)
            program.row(0, 0, (into, 1.0), (self._f[g], 1.0), (out, -1.0), (self._e[g], -1.0))
            program.row(0, INFINITY, (into, 1.0), (self._f[g], 1.0), (self._y[g], -1.0))
            program.row(0, INFINITY, (self._on(g), 1.0), (into, -1.0), (self._f[g], -1.0))
            program.row(0, INFINITY, (self._on_end(g, 0), 1.0), (self._f[g], -1.0))
            program.row(0, INFINITY, (self._on_end(g, -1), 1.0), (self._e[g], -1.0))
            if self._view.tables.required[self._view.groups[g][0]]:
                program.row(size, INFINITY, (self._y[g], 1.0))

    def _on_end(self, g: int, layer: int) -> Ints:
        """Columns of the class of the first or the last layer on a group."""
        layer %= self._view.tables.num_layers
        c = next(c for c, members in enumerate(self._view.classes) if layer in members)
        return self._held[c][:, g]

    def _made(self, which: Callable[[int, int], bool]) -> Ints:
        """Columns of the moves from g to h for which `which(g, h)`."""
        keep = [m for m, (g, h) in enumerate(self._moves) if which(g, h)]
        return np.concatenate((self._a[keep], self._b[keep]))

    def _into(self, group: int) -> Ints:
        return self._made(lambda g, h: h == group)

    def _out(self, group: int) -> Ints:
        return self._made(lambda g, h: g == group)

    def _memory(self, first: Ints) -> None:
        """What layers take, and how many of a kind fit, on the devices that are used. A tied model
        that lies whole on one device takes less."""
        view, program = self._view, self._program
        for g, j in enumerate(first):
            room = float(view.tables.room[j])
            scale = max(room, 1.0)
            parts = [
                (n[:, g], view.tables.size[:, members[0]] / scale)
                for n, members in zip(self._held, view.classes, strict=True)
            ]
            alone = self._alone(g)
            saved = (alone, -view.tables.shared[: len(alone)] / scale)
            program.row(-INFINITY, 0.0, *parts, (self._y[g], -max(room, 0.0) / scale), saved)
            for n, members in zip(self._held, view.classes, strict=True):
                smallest = int(view.tables.size[:, members[0]].min())
                fit = int(max(room, 0.0) // max(smallest, 1))
                most = float(min(len(members), max(fit, len(alone) > 0)))
                if not len(alone):
                    program.row(-INFINITY, 0.0, (n[:, g], 1.0), (self._y[g], -most))

    def _alone(self, g: int) -> Ints:
        """Columns that may be 1 where a group's device holds a whole tied model, both ends in that
        scheme."""
        view, program = self._view, self._program
        if not view.tables.shared.any() or not view.tables.allowed[:, view.groups[g][0]].all():
            return np.zeros(0, dtype=np.int64)
        alone = program.columns(view.tables.shared.shape)
        for s, column in enumerate(alone):
            for layer in (0, -1):
                program.row(0, INFINITY, (self._on_end(g, layer)[s], 1.0), (column, -1.0))
            program.row(0, INFINITY, (self._on(g), 1.0), (column, -float(view.tables.num_layers)))
        return alone

    def _seconds(self, first: Ints, moves: list[tuple[float, float]], sizes: Ints) -> None:
        view, program = self._view, self._program
        unit = view.unit
        enter = np.array([seconds for seconds, _ in moves]) / unit
        ends = np.where(np.isfinite(view.costs.first), view.costs.first, 0.0)[first] / unit
        back = np.where(np.isfinite(view.costs.back), view.costs.back, 0.0)[first] / unit
        layers = [
            (n, -view.costs.seconds[:, members[0]][:, first] / unit)
            for n, members in zip(self._held, view.classes, strict=True)
        ]
        program.row(
            0, INFINITY, (self._z, float(view.lanes)), *layers, (self._a, -enter),
            (self._b, -enter), (self._f, -ends), (self._e, -back),
        )  # fmt: skip
        if view.lanes > 1:
            self._period(first, np.array([busy for _, busy in moves]) / unit, sizes)

    def _period(self, first: Ints, busy: Floats, sizes: Ints) -> None:
        view, program = self._view, self._program
        unit, tables = view.unit, view.tables
        for g, j in enumerate(first):
            step = float(tables.step[j]) / unit
            layers = [
                (n[:, g], -tables.decode[:, members[0], j] / unit)
                for n, members in zip(self._held, view.classes, strict=True)
            ]
            program.row(
                0, INFINITY, (self._z, float(sizes[g])), *layers, (self._into(g), -step),
                (self._f[g], -step),
            )  # fmt: skip
            for column, seconds in (
                (self._f[g], tables.entry_busy[j]),
                (self._e[g], tables.back_busy[j]),
            ):
                program.row(0, INFINITY, (self._z, 1.0), (column, -float(seconds) / unit))
        for m, (g, h) in enumerate(self._moves):
            if len(view.groups[g]) == len(view.groups[h]) == 1:
                program.row(
                    0, INFINITY, (self._z, 1.0), (self._a[m], -busy[m]), (self._b[m], -busy[m])
                )
            else:
                program.row(0, INFINITY, (self._z, 1.0), (self._a[m], -busy[m]))

    def _reach(self, some: Sequence[int], used: Sequence[int]) -> None:
        """Rows: the walk begins in some groups or comes into them where one of them is used."""
        inside = set(some)
        into = self._made(lambda g, h: g not in inside and h in inside)
        for g in used:
            size = float(len(self._view.groups[g]))
            self._program.row(
                0, INFINITY, (into, 1.0), (self._f[list(some)], 1.0), (self._y[g], -1.0 / size)
            )

    def _connect(self, time_limit: float) -> None:
        """Rows where the relaxation's walk is in pieces, or nearly: seen through moves that it
        makes at least so far."""
        for _ in range(MOST_CUTS):
            solved = self._program.solve(time_limit, relaxed=True)
            if solved.status != "optimal":
                return
            made = solved.values[self._a] + solved.values[self._b]
            found = {cut for share in SHARES for cut in self._cut_off(solved.values, made, share)}
            if not found:
                return
            for some, g in sorted(found):
                self._reach(some, [g])

    def _cut_off(
        self, values: Floats, made: Floats, share: float
    ) -> Iterator[tuple[tuple[int, ...], int]]:
        """Groups that moves made less than `share` times lead to, and one of them that is used more
        than all of these allow."""
        moves = [pair for pair, times in zip(self._moves, made, strict=True) if times > share]
        begun = [g for g, x in enumerate(values[self._f]) if x > share]
        reached = set().union(*(_reached(g, moves) for g in begun))
        outside = [g for g in range(len(self._view.groups)) if g not in reached]
        for piece in _pieces(outside, moves):
            into = sum(
                times
                for (g, h), times in zip(self._moves, made, strict=True)
                if h in piece and g not in piece
            )
            into += values[self._f][list(piece)].sum()
            for g in piece:
                if values[self._y[g]] / len(self._view.groups[g]) > into + VIOLATED:
                    yield piece, g

    # -- solutions

    def _read(self, solved: Solution) -> Walk | None:
        """The walk of a solution; where it is in pieces, these are cut off."""
        values = np.round(solved.values).astype(np.int64)
        times = values[self._a] + values[self._b]
        moves = [pair for pair, count in zip(self._moves, times, strict=True) for _ in range(count)]
        first = int(values[self._f].argmax())
        reached = _reached(first, moves)
        lost = [g for g in range(len(self._view.groups)) if values[self._y][g] and g not in reached]
        if not lost:
            order = _euler(first, [pair for pair in moves if pair[0] in reached])
            visits = Counter(order)
            layers = (float(solved.values[self._on(g)].sum()) / visits[g] for g in order)
            only = len(set(order[:-1])) == len(order) - 1
            return Walk(order, tuple(layers), tuple(moves), only)
        self._reach([g for g in range(len(self._view.groups)) if g not in reached], lost)
        return None


def _reached(first: int, moves: list[tuple[int, int]]) -> set[int]:
    reached, edge = {first}, [first]
    while edge:
        at = edge.pop()
        for g, h in moves:
            if g == at and h not in reached:
                reached.add(h)
                edge.append(h)
    return reached


def _pieces(groups: list[int], moves: list[tuple[int, int]]) -> list[tuple[int, ...]]:
    """Connected parts of some groups, and all of them together."""
    either = [*moves, *((h, g) for g, h in moves)]
    inside = [pair for pair in either if pair[0] in groups and pair[1] in groups]
    parts = {tuple(sorted(_reached(g, inside))) for g in groups}
    return sorted({*parts, tuple(groups)} - {()})


def _euler(first: int, moves: list[tuple[int, int]]) -> tuple[int, ...]:
    """The visits of a walk that makes every move once (Hierholzer 1873)."""
    left: dict[int, list[int]] = {}
    for g, h in sorted(moves, reverse=True):
        left.setdefault(g, []).append(h)
    stack, order = [first], list[int]()
    while stack:
        if left.get(stack[-1]):
            stack.append(left[stack[-1]].pop())
        else:
            order.append(stack.pop())
    return tuple(order[::-1])
