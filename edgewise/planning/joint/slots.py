"""Slots: what a stage can lie on. Equal devices share one slot with a multiplicity. The source has
a slot for its only stage where that starts the chain, two for a pair of stages at both ends, and,
where the embedding may leave it, one for its only stage anywhere.

Devices are equal when their own rows agree and every hop to and from any other class is the same
for all members; found by colour refinement.
"""

from dataclasses import dataclass

import numpy as np

from edgewise.planning.joint.arrays import Bools, Floats, Ints, JointProblem


@dataclass(frozen=True)
class Slots:
    """K slots; row k speaks for every device in `members[k]`."""

    device: Ints  # [K] representative
    members: tuple[tuple[int, ...], ...]
    count: Ints  # [K]
    hop: Floats  # [K, K] hop time, inf where the succession is impossible
    starts: Bools  # may begin at layer 0 only
    ends: Bools  # may end at layer N only
    shared: Bools  # the source's first and last stage, which share its memory and time
    required: Bools

    @property
    def source(self) -> Bools:
        first: Bools = self.device == 0
        return first


def classes(p: JointProblem) -> list[list[int]]:
    """Devices other than the source in groups of interchangeable ones."""
    _, m, _ = p.shape
    own = [
        (
            p.time[:, j].tobytes(),
            p.cap[j],
            p.step[j],
            p.ret[j],
            p.entry[j],
            p.allowed[:, j].tobytes(),
        )
        for j in range(m)
    ]
    keys: list[object] = [
        ("only", j) if j == 0 or p.required[j] else key for j, key in enumerate(own)
    ]
    colour = _number(keys)
    while True:
        groups = [np.flatnonzero(colour == c) for c in range(colour.max() + 1)]
        ends = [_ends(p.hop, group) for group in groups]
        keys = [
            (int(colour[j]), tuple(float(e[x, j]) for e in ends for x in range(4)))
            for j in range(m)
        ]
        finer = _number(keys)
        if finer.max() == colour.max():
            break
        colour = finer
    found: list[list[int]] = []
    for c in range(colour.max() + 1):
        group = np.flatnonzero(colour == c)
        constant = all(
            (e[0, group] == e[1, group]).all() and (e[2, group] == e[3, group]).all() for e in ends
        )
        found += [group.tolist()] if constant else [[int(j)] for j in group]
    return sorted((g for g in found if 0 not in g), key=lambda g: g[0])


def _number(keys: list[object]) -> Ints:
    order: dict[object, int] = {}
    return np.array([order.setdefault(key, len(order)) for key in keys])


def _ends(hop: Floats, group: Ints) -> Floats:
    """Least and greatest hop of every device to and from a group, itself left out."""
    out, into = hop[:, group].copy(), hop[group, :].T.copy()
    own = np.zeros(out.shape, bool)
    own[group, np.arange(len(group))] = True
    rows = [np.where(own, fill, x) for x in (out, into) for fill in (np.inf, -np.inf)]
    least = [r.min(1) if i % 2 == 0 else r.max(1) for i, r in enumerate(rows)]
    single = own.all(1)
    return np.array([np.where(single, 0.0, x) for x in least])


def make_slots(p: JointProblem, merge: bool = True) -> Slots:
    """Drop devices that no layer may use, group the rest, split the source."""
    groups = [
        g
        for g in (classes(p) if merge else [[j] for j in range(1, p.shape[1])])
        if p.allowed[:, g[0]].any()
    ]
    heads = [(True, False, False), (True, False, True), (False, True, True)]
    if p.allowed[0, 1:].any():
        heads.append((False, False, False))
    device = np.array([0 for _ in heads] + [g[0] for g in groups])
    k, own = len(device), len(heads)
    hop = p.hop[np.ix_(device, device)].astype(float)
    hop[:own, :own] = np.inf
    for i, group in enumerate(groups, own):
        hop[i, i] = p.hop[group[0], group[1]] if len(group) > 1 else np.inf
    starts = np.array([h[0] for h in heads] + [False] * len(groups))
    ends = np.array([h[1] for h in heads] + [False] * len(groups))
    hop[:, starts] = np.inf
    hop[ends, :] = np.inf
    members = tuple((0,) for _ in heads) + tuple(tuple(g) for g in groups)
    return Slots(
        device,
        members,
        np.array([len(x) for x in members]),
        hop,
        starts,
        ends,
        np.array([h[2] for h in heads] + [False] * len(groups)),
        p.required[device] & (np.arange(k) >= own),
    )
