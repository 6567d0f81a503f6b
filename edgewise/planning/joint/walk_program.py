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

from collections.abc import Callable, Sequence
from itertools import combinations, product

import numpy as np

from edgewise.planning.highs import Program
from edgewise.planning.joint.view import View
from edgewise.planning.tables import INFINITY, Floats, Ints

FEW = 6  # groups, all of whose subsets are known to be reached from the start; of more, all pairs
SHORTER = 1e-4  # of z, that moves cost besides where the period counts


class WalkProgram:
    """Columns and rows. `a[m]` is whether a move is made, `b[m]` how often beyond that; layers may
    be divided among devices and schemes."""

    def __init__(self, view: View) -> None:
        self.view = view
        self.program = Program()
        self.more: dict[tuple[int, int], Ints] = {}
        groups = range(len(view.groups))
        sizes = np.array([len(group) for group in view.groups])
        moves = {(g, h): view.move(g, h) for g, h in product(groups, repeat=2)}
        self.moves = [pair for pair, (seconds, _) in moves.items() if seconds < INFINITY]
        first = np.array([group[0] for group in view.groups])
        begins = np.isfinite(view.costs.first[first]) & view.tables.allowed[0, first]
        ends = np.isfinite(view.costs.back[first]) & view.tables.allowed[-1, first]
        new = self.program.columns
        self.z = new((1,), 1.0, INFINITY, integer=False)
        self.held = self._layers(first)
        # Where the period counts, moves cost a trifle, too: no more than SHORTER of any plan's z.
        seconds = np.array([moves[pair][0] for pair in self.moves])
        trifle = seconds / view.unit * SHORTER / view.lanes if view.lanes > 1 else 0.0 * seconds
        self.a = new(trifle.shape, trifle)
        self.b = new(trifle.shape, trifle, view.tables.num_layers)
        self.f = new((len(groups),), 0.0, begins.astype(float))
        self.e = new((len(groups),), 0.0, ends.astype(float))
        self.y = new((len(groups),), 0.0, np.minimum(sizes, view.tables.num_layers))
        self._walk(sizes)
        self._memory(first)
        self._seconds(first, [moves[pair] for pair in self.moves], sizes)
        for count in range(2, FEW if len(groups) <= FEW else 3):
            for some in combinations(groups, count):
                self.reach(some, some)

    def reach(self, some: Sequence[int], used: Sequence[int]) -> None:
        """Rows: the walk begins in some groups or comes into them where one of them is used."""
        inside = set(some)
        into = self._made(lambda g, h: g not in inside and h in inside)
        for g in used:
            size = float(len(self.view.groups[g]))
            self.program.row(
                0, INFINITY, (into, 1.0), (self.f[list(some)], 1.0), (self.y[g], -1.0 / size)
            )

    def beyond(self, m: int, times: int) -> Ints:
        """A column that is 1 where a move is made more often than so many times."""
        if (m, times) not in self.more:
            column = self.program.columns(())
            most = float(self.view.tables.num_layers)
            self.program.row(0, INFINITY, (self.b[m], 1.0), (column, -float(times)))
            self.program.row(-INFINITY, times - 1, (self.b[m], 1.0), (column, -most))
            self.more[m, times] = column
        return self.more[m, times]

    def on(self, g: int) -> Ints:
        """Columns of all layers on a group."""
        return np.concatenate([n[:, g] for n in self.held])

    def _layers(self, first: Ints) -> list[Ints]:
        """n[c][s, g], the rows that tie it to u, and the budget."""
        view, program, held = self.view, self.program, list[Ints]()
        loss, budget = view.scored, view.problem.budget
        losing: list[tuple[Ints, Floats]] = []
        for members in view.classes:
            usable = view.usable[:, members][:, :, first]  # [s, i, g]
            most = np.where(usable.any(axis=1), float(len(members)), 0.0)
            held.append(program.columns(most.shape, 0.0, most, integer=False))
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

    def _walk(self, sizes: Ints) -> None:
        program = self.program
        program.row(1, 1, (self.f, 1.0))
        program.row(1, 1, (self.e, 1.0))
        for m in range(len(self.moves)):
            program.row(0, INFINITY, (self.a[m], self.view.tables.num_layers), (self.b[m], -1.0))
        for g, size in enumerate(sizes):
            into = self._into(g)
            # Moves within a group come in and go out: twice in a row HiGHS does not take a column.
            come, go = self._from_others(g), self._to_others(g)
            program.row(0, 0, (come, 1.0), (self.f[g], 1.0), (go, -1.0), (self.e[g], -1.0))
            program.row(0, INFINITY, (into, 1.0), (self.f[g], 1.0), (self.y[g], -1.0))
            program.row(0, INFINITY, (self.on(g), 1.0), (into, -1.0), (self.f[g], -1.0))
            program.row(0, INFINITY, (self._on_end(g, 0), 1.0), (self.f[g], -1.0))
            program.row(0, INFINITY, (self._on_end(g, -1), 1.0), (self.e[g], -1.0))
            if self.view.tables.required[self.view.groups[g][0]]:
                program.row(size, INFINITY, (self.y[g], 1.0))

    def _on_end(self, g: int, layer: int) -> Ints:
        """Columns of the class of the first or the last layer on a group."""
        layer %= self.view.tables.num_layers
        c = next(c for c, members in enumerate(self.view.classes) if layer in members)
        return self.held[c][:, g]

    def _made(self, which: Callable[[int, int], bool]) -> Ints:
        """Columns of the moves from g to h for which `which(g, h)`."""
        keep = [m for m, (g, h) in enumerate(self.moves) if which(g, h)]
        return np.concatenate((self.a[keep], self.b[keep]))

    def _into(self, group: int) -> Ints:
        return self._made(lambda g, h: h == group)

    def _from_others(self, group: int) -> Ints:
        return self._made(lambda g, h: g != group and h == group)

    def _to_others(self, group: int) -> Ints:
        return self._made(lambda g, h: g == group and h != group)

    def _memory(self, first: Ints) -> None:
        """What layers take, and how many of a kind fit, on the devices that are used. A tied model
        that lies whole on one device takes less."""
        view, program = self.view, self.program
        for g, j in enumerate(first):
            room = float(view.tables.room[j])
            scale = max(room, 1.0)
            parts = [
                (n[:, g], view.tables.size[:, members[0]] / scale)
                for n, members in zip(self.held, view.classes, strict=True)
            ]
            alone = self._alone(g)
            saved = (alone, -view.tables.shared[: len(alone)] / scale)
            program.row(-INFINITY, 0.0, *parts, (self.y[g], -max(room, 0.0) / scale), saved)
            for n, members in zip(self.held, view.classes, strict=True):
                smallest = int(view.tables.size[:, members[0]].min())
                fit = int(max(room, 0.0) // max(smallest, 1))
                most = float(min(len(members), max(fit, len(alone) > 0)))
                if not len(alone):
                    program.row(-INFINITY, 0.0, (n[:, g], 1.0), (self.y[g], -most))

    def _alone(self, g: int) -> Ints:
        """Columns that may be 1 where a group's device holds a whole tied model, both ends in that
        scheme."""
        view, program = self.view, self.program
        if not view.tables.shared.any() or not view.tables.allowed[:, view.groups[g][0]].all():
            return np.zeros(0, dtype=np.int64)
        alone = program.columns(view.tables.shared.shape)
        for s, column in enumerate(alone):
            for layer in (0, -1):
                program.row(0, INFINITY, (self._on_end(g, layer)[s], 1.0), (column, -1.0))
            program.row(0, INFINITY, (self.on(g), 1.0), (column, -float(view.tables.num_layers)))
        return alone

    def _seconds(self, first: Ints, moves: list[tuple[float, float]], sizes: Ints) -> None:
        view, program = self.view, self.program
        unit = view.unit
        enter = np.array([seconds for seconds, _ in moves]) / unit
        ends = np.where(np.isfinite(view.costs.first), view.costs.first, 0.0)[first] / unit
        back = np.where(np.isfinite(view.costs.back), view.costs.back, 0.0)[first] / unit
        layers = [
            (n, -view.costs.seconds[:, members[0]][:, first] / unit)
            for n, members in zip(self.held, view.classes, strict=True)
        ]
        program.row(
            0, INFINITY, (self.z, float(view.lanes)), *layers, (self.a, -enter),
            (self.b, -enter), (self.f, -ends), (self.e, -back),
        )  # fmt: skip
        if view.lanes > 1:
            self._period(first, np.array([busy for _, busy in moves]) / unit, sizes)

    def _period(self, first: Ints, busy: Floats, sizes: Ints) -> None:
        view, program = self.view, self.program
        unit, tables = view.unit, view.tables
        for g, j in enumerate(first):
            step = float(tables.step[j]) / unit
            layers = [
                (n[:, g], -tables.decode[:, members[0], j] / unit)
                for n, members in zip(self.held, view.classes, strict=True)
            ]
            program.row(
                0, INFINITY, (self.z, float(sizes[g])), *layers, (self._into(g), -step),
                (self.f[g], -step),
            )  # fmt: skip
            for column, seconds in (
                (self.f[g], tables.entry_busy[j]),
                (self.e[g], tables.back_busy[j]),
            ):
                program.row(0, INFINITY, (self.z, 1.0), (column, -float(seconds) / unit))
        for m, (g, h) in enumerate(self.moves):
            if len(view.groups[g]) == len(view.groups[h]) == 1:
                program.row(
                    0, INFINITY, (self.z, 1.0), (self.a[m], -busy[m]), (self.b[m], -busy[m])
                )
            else:
                program.row(0, INFINITY, (self.z, 1.0), (self.a[m], -busy[m]))
