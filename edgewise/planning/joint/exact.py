"""Small instances to the end: labels layer by layer, every scheme tried, nothing relaxed.

A label carries what decides its future: seconds, loss, time and bytes of the running stage and of
the source. It goes when a dual point proves that it cannot end below the threshold, or when another
label with the same slot and the same set of slots is no worse in everything.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np

from edgewise.planning.joint.arrays import SLACK, Bools, Floats, Ints
from edgewise.planning.joint.paths import backward_from
from edgewise.planning.joint.relax import Dual, Relaxation
from edgewise.planning.joint.stages import Lower

State = dict[str, Any]  # columns of labels, named
LATENCY, LOSS, TIME, BYTES, TIME0, BYTES0 = range(6)


@dataclass
class Verdict:
    """`done`: nothing was left out. `best`: (device, scheme) per layer, or None."""

    done: bool
    best: tuple[Ints, Ints] | None
    labels: int


class Exact:
    """Find the best solution with objective below `threshold` (an absolute number of seconds)."""

    def __init__(
        self,
        relax: Relaxation,
        duals: list[Dual],
        lowers: list[Lower],
        threshold: float,
        passes: float,
        most: int = 200_000,
    ) -> None:
        self.relax, self.st, self.slots = relax, relax.stages, relax.slots
        self.p = relax.stages.problem
        self.duals, self.lowers = duals, lowers
        self.threshold, self.passes, self.most = threshold, passes, most
        self.n, self.k = self.p.shape[0], len(self.slots.count)
        self.bit = 1 << np.arange(self.k)
        alone = np.flatnonzero(self.slots.source & ~self.slots.shared)
        self.bit[alone] = self.bit[alone[0]]
        self.total = 0

    def run(self) -> Verdict:
        done, best = True, None
        for family in range(2):
            found = self._family(family)
            if found is None:
                done = False
            elif found:
                value, device, scheme = found
                if best is None or value < best[0]:
                    best = (value, device, scheme)
                    self.threshold = min(self.threshold, value)
        return Verdict(done, None if best is None else (best[1], best[2]), self.total)

    def _prepare(self, family: int) -> None:
        """Per dual point: completion bounds of labels in mid-stage, [D, N+1, K]."""
        relax = self.relax
        self.ends = [relax.families(relax.visits(d))[family] for d in self.duals]
        self.constant = np.array([relax.constant(d, family) for d in self.duals])
        rest = []
        for lower, ends in zip(self.lowers, self.ends, strict=True):
            after = backward_from(lower.bound, relax.chain.hop, ends.enter, ends.end)
            plain = self._plain(lower)
            go = np.where(
                self._open(), plain[:, None, :] - plain[:, :, None] + after.T[:, None, :], np.inf
            )
            rest.append((go.min(2).T, after))
        self.rest = np.stack([r for r, _ in rest])

    def _plain(self, lower: Lower) -> Floats:
        """Cumulative least cost of every layer alone; the source's pair at its shared price."""
        st = self.st
        st.price = lower.price if st.weight else st.price
        rows = st.weighed(
            st.costs(),
            np.where(self.slots.shared, lower.alpha[:, 0], 0.0),
            np.where(self.slots.shared, lower.mu[:, 0], 0.0),
        ).min(2)
        out = np.zeros((self.k, self.n + 1))
        np.cumsum(rows, 1, out=out[:, 1:])
        return out

    def _open(self) -> Bools:
        """[K, i, b]: the stage may go on from boundary i and end at b."""
        i, b = np.arange(self.n + 1)[:, None], np.arange(self.n + 1)[None, :]
        ok = np.broadcast_to(b >= i, (self.k, self.n + 1, self.n + 1)).copy()
        bad = np.zeros((self.k, self.n + 1))
        bad[:, 1:] = np.cumsum(~self.p.allowed[:, self.slots.device].T, 1)
        ok &= bad[:, None, :] == bad[:, :, None]
        ok &= ~self.slots.ends[:, None, None] | (b == self.n)
        return ok

    def _family(self, family: int) -> tuple[float, Ints, Ints] | tuple[()] | None:
        self._prepare(family)
        self.kept: list[tuple[Ints, Ints, Ints]] = []
        state: State | None = None
        for layer in range(self.n):
            state = self._layer(layer, state)
            if state is None:
                return ()
            self.kept.append((state["slot"], state["scheme"], state["parent"]))
            self.total += state["slot"].size
            if state["slot"].size > self.most:
                return None
        return () if state is None else self._close(state)

    def _close(self, state: State) -> tuple[float, Ints, Ints] | tuple[()]:
        p, slot = self.p, state["slot"]
        whole = state["v"][:, LATENCY] + (p.ret[self.slots.device[slot]])
        value = np.maximum(
            whole / self.passes if np.isfinite(self.passes) else 0.0, state["period"]
        )
        must = int(sum(self.bit[self.slots.required]))
        value = np.where((state["mask"] & must) == must, value, np.inf)
        i = int(value.argmin())
        best = float(value[i])
        if not best < self.threshold:
            return ()
        device, scheme = np.zeros(self.n, int), np.zeros(self.n, int)
        for layer in range(self.n - 1, -1, -1):
            slots, schemes, parents = self.kept[layer]
            device[layer], scheme[layer] = self.slots.device[slots[i]], schemes[i]
            i = int(parents[i])
        return best, device, scheme

    def _layer(self, layer: int, old: State | None) -> State | None:
        parts = []
        p = self.p
        for k in range(self.k):
            if not p.allowed[layer, self.slots.device[k]]:
                continue
            for come in self._arrivals(layer, k, old):
                for s in range(p.shape[2]):
                    part = self._store(layer, k, s, come)
                    if part is not None:
                        parts.append(part)
        if not parts:
            return None
        state = {key: np.concatenate([x[key] for x in parts]) for key in parts[0]}
        return self._distinct(state)

    def _arrivals(self, layer: int, k: int, old: State | None) -> list[State]:
        """Labels that are on slot k before it takes `layer`: those that stay, those that come."""
        dev, p = self.slots.device[k], self.p
        pay = np.array([e.enter[k] for e in self.ends])
        if old is None:
            start = np.array([e.start[k] for e in self.ends])
            if not np.isfinite(start).all():
                return []
            v = np.zeros((1, 6))
            v[0, LATENCY], v[0, TIME] = p.entry[dev] + p.step[dev], p.step[dev]
            v[0, TIME0] = p.step[0] if dev == 0 else 0.0
            return [
                {
                    "v": v,
                    "cost": start[None],
                    "mask": self.bit[[k]],
                    "parent": np.array([-1]),
                    "period": np.zeros(1),
                }
            ]
        out = []
        stay = np.flatnonzero(old["slot"] == k)
        if stay.size:
            out.append(
                {
                    "v": old["v"][stay],
                    "cost": old["cost"][stay],
                    "mask": old["mask"][stay],
                    "parent": stay,
                    "period": old["period"][stay],
                }
            )
        hop = self.relax.chain.hop
        move = np.flatnonzero(
            np.isfinite(hop[old["slot"], k])
            & ((old["mask"] & self.bit[k]) == 0)
            & np.isfinite(pay).all()
        )
        if move.size:
            v = old["v"][move].copy()
            real = self.slots.hop[old["slot"][move], k]
            v[:, LATENCY] += real + p.step[dev]
            v[:, TIME], v[:, BYTES] = p.step[dev], 0.0
            if dev == 0:
                v[:, TIME], v[:, BYTES] = v[:, TIME0] + p.step[0], v[:, BYTES0]
                v[:, TIME0] += p.step[0]
            period = np.maximum(old["period"][move], real)
            out.append(
                {
                    "v": v,
                    "cost": old["cost"][move] + hop[old["slot"][move], k][:, None] + pay,
                    "mask": old["mask"][move] | self.bit[k],
                    "parent": move,
                    "period": period,
                }
            )
        return out

    def _store(self, layer: int, k: int, s: int, come: State) -> State | None:
        p, st, dev = self.p, self.st, self.slots.device[k]
        if not st.usable[layer, s]:
            return None
        t, size, loss = p.time[layer, dev, s], p.bytes[layer, s], p.loss[layer, s]
        v = come["v"].copy()
        v[:, [LATENCY, TIME]] += t
        v[:, LOSS] += loss
        v[:, BYTES] += size
        if dev == 0:
            v[:, TIME0] += t
            v[:, BYTES0] += size
        period = np.maximum(come["period"], v[:, TIME])
        price = np.array([x.price for x in self.duals]) if st.weight else np.ones(len(self.duals))
        extra = (
            np.array([d.shared for d in self.duals]) @ np.array([t, size])
            if self.slots.shared[k]
            else 0.0
        )
        cost = come["cost"] + st.weight * t + price * loss + extra
        bound = (cost + self.rest[:, layer + 1, k] - self.constant).max(1)
        good = (v[:, BYTES] <= p.cap[dev] * (1 + SLACK)) & (v[:, LOSS] <= p.budget * (1 + SLACK))
        top = self.threshold if st.weight else np.inf
        limit = top * (self.passes if st.weight else 1.0)
        good &= (bound < limit) if st.weight else (bound <= p.budget * (1 + 1e-9) + 1e-12)
        good &= period < self.threshold
        at = np.flatnonzero(good)
        if not at.size:
            return None
        return {
            "slot": np.full(at.size, k),
            "scheme": np.full(at.size, s),
            "v": v[at],
            "cost": cost[at],
            "mask": come["mask"][at],
            "parent": come["parent"][at],
            "period": period[at],
        }

    def _distinct(self, x: State) -> State:
        """Drop dominated labels, compared with every other in their group (in blocks)."""
        keys = np.hstack([x["v"], x["period"][:, None]])
        group = x["slot"].astype(np.int64) * (1 << 40) + x["mask"]
        order = np.lexsort((keys[:, LATENCY], group))
        keep = np.ones(order.size, bool)
        edges = np.flatnonzero(np.diff(group[order])) + 1
        for part in np.split(np.arange(order.size), edges):
            rows = keys[order[part]]
            if len(part) > 1:
                keep[part] = _frontier(rows)
        which = order[keep]
        return {key: value[which] for key, value in x.items()}


def _frontier(rows: Floats) -> Bools:
    """Which rows no earlier or equal row dominates; rows are sorted by their first column."""
    count = len(rows)
    alive = np.ones(count, bool)
    for i in range(count):
        if alive[i]:
            worse = (rows[i + 1 :] >= rows[i]).all(1)
            alive[i + 1 :] &= ~worse
    return alive
