"""Shortest paths over (layers done, slot): dynamic programs forward and backward.

A stage (k, a, b) costs table[k, a, b]; before it comes start[k] where a = 0, else the hop from the
stage before and enter[k]; the last stage is followed by end[k]. O(N K (N + K)) each.
"""

import numpy as np

from edgewise.planning.joint.arrays import Floats

Path = list[tuple[int, int, int]]  # (slot, a, b)


def shortest(
    table: Floats, hop: Floats, start: Floats, enter: Floats, end: Floats
) -> tuple[float, Path]:
    """The least cost and its path; infinite and empty where none exists."""
    k, n1, _ = table.shape
    n = n1 - 1
    begin, done = np.full((k, n1), np.inf), np.full((n1, k), np.inf)
    begin[:, 0] = start
    spans = np.ascontiguousarray(table.transpose(2, 0, 1))  # [b, k, a]
    for b in range(1, n1):
        done[b] = (begin[:, :b] + spans[b, :, :b]).min(1)
        if b < n:
            begin[:, b] = (done[b][:, None] + hop).min(0) + enter
    final = done[n] + end
    at, b = int(final.argmin()), n
    value, path = float(final[at]), Path()
    while np.isfinite(value) and b > 0:
        a = int((begin[at, :b] + table[at, :b, b]).argmin())
        path.append((at, a, b))
        at, b = int((done[a] + hop[:, at]).argmin()), a
    return value, path[::-1]


def backward_from(table: Floats, hop: Floats, enter: Floats, end: Floats) -> Floats:
    """[N+1, K]: least cost of the layers from boundary i on, the last stage having ended on k."""
    k, n1, _ = table.shape
    after = np.full((n1, k), np.inf)
    after[n1 - 1] = end
    for a in range(n1 - 2, 0, -1):
        stage = (table[:, a, a + 1 :] + after[a + 1 :].T).min(1) + enter
        after[a] = (hop + stage[None, :]).min(1)
    return after


def forward_to(table: Floats, hop: Floats, start: Floats, enter: Floats) -> Floats:
    """[K, N+1]: least cost of the layers before boundary a when slot k goes on there, entered."""
    k, n1, _ = table.shape
    begin = np.full((k, n1), np.inf)
    begin[:, 0] = start
    for b in range(1, n1 - 1):
        done = (begin[:, :b] + table[:, :b, b]).min(1)
        begin[:, b] = (done[:, None] + hop).min(0) + enter
    return begin
