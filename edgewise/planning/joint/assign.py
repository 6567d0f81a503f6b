"""Schemes for a fixed route: a small integer program.

min z   s.t.  z >= latency / passes,  z >= time of each device,  loss <= budget,  bytes <= cap
"""

from itertools import pairwise

import highspy
import numpy as np

from edgewise.planning.joint.arrays import (
    Floats,
    Ints,
    JointProblem,
    Placement,
    evaluate,
    stages_of,
)
from edgewise.planning.joint.solver import quiet_solver


def assign(
    p: JointProblem,
    device: Ints,
    seconds: float = 2.0,
    gap: float = 1e-4,
    start: Ints | None = None,
) -> Placement | None:
    """Best schemes for layers on `device`, to a relative `gap`; None where none fits."""
    n, m, _ = p.shape
    rows = np.arange(n)
    names = [j for j, _, _ in stages_of(device)]
    hops = [float(p.hop[a, b]) for a, b in pairwise(names)]
    if not np.isfinite(hops).all() or not p.allowed[rows, device].all():
        return None
    steps = np.bincount(names, minlength=m) * p.step
    fixed = float(p.entry[names[0]] + steps.sum() + sum(hops) + p.ret[names[-1]])
    if np.isfinite(p.passes) and not np.isfinite(fixed):
        return None
    time = p.time[rows, device]
    unit = max(float(time.max()), 1e-300)
    lines: list[tuple[Floats, float, float]] = []  # coefficients of x, of z, right side
    if np.isfinite(p.passes):
        lines.append((time / unit, -p.passes, -fixed / unit))
    for j in sorted(set(names)):
        own = (device == j)[:, None]
        lines.append((np.where(own, p.bytes, 0.0) / p.cap[j], 0.0, 1.0))
        if p.passes > 1:
            lines.append((np.where(own, time, 0.0) / unit, -1.0, -steps[j] / unit))
    if np.isfinite(p.budget):
        scale = p.budget if p.budget > 0 else 1.0
        lines.append((p.loss / scale, 0.0, p.budget / scale))
    least = max(hops, default=0.0) / unit if p.passes > 1 else 0.0
    usable = p.loss <= p.budget * (1 + 1e-12)
    for tightened in (1.0, 1 - 1e-6):  # the solver's own tolerance may let a limit be passed
        rows_of = [(x, z, right if z else right * tightened) for x, z, right in lines]
        x = _solve(rows_of, usable, least, seconds, gap, start)
        found = None if x is None else evaluate(p, device, x.argmax(1))
        if x is None or found is not None:
            return found
    return None


def _solve(
    lines: list[tuple[Floats, float, float]],
    usable: np.ndarray,
    least: float,
    seconds: float,
    gap: float,
    start: Ints | None,
) -> Floats | None:
    n, s = usable.shape
    size = n * s
    lp = highspy.HighsLp()
    lp.num_col_, lp.num_row_ = size + 1, n + len(lines)
    lp.col_cost_ = np.array([0.0] * size + [1.0])
    lp.col_lower_ = np.array([0.0] * size + [least])
    lp.col_upper_ = np.concatenate([usable.ravel().astype(float), [1e30]])
    lp.integrality_ = [highspy.HighsVarType.kInteger] * size + [highspy.HighsVarType.kContinuous]
    lp.row_lower_ = np.array([1.0] * n + [-1e30] * len(lines))
    lp.row_upper_ = np.array([1.0] * n + [right for _, _, right in lines])
    index, value, start_at = list(range(size)), [1.0] * size, [i * s for i in range(n)]
    at = size
    for row, z, _ in lines:
        start_at.append(at)
        cols = np.flatnonzero(row.ravel())
        index += [*cols.tolist(), size]
        value += [*row.ravel()[cols].tolist(), z]
        at += len(cols) + 1
    start_at.append(at)
    lp.a_matrix_.format_ = highspy.MatrixFormat.kRowwise
    lp.a_matrix_.start_, lp.a_matrix_.index_, lp.a_matrix_.value_ = start_at, index, value
    h = quiet_solver(time_limit=seconds, mip_rel_gap=gap, mip_feasibility_tolerance=1e-9)
    h.passModel(lp)
    if start is not None:
        given = highspy.HighsSolution()
        one = np.zeros((n, s))
        one[np.arange(n), start] = 1.0
        z = max(
            [least, *((((row * one).sum() - right) / -zc) for row, zc, right in lines if zc < 0)]
        )
        given.col_value = [*one.ravel().tolist(), z]
        h.setSolution(given)
    h.run()
    solution = h.getSolution()
    if not solution.value_valid or h.getInfo().primal_solution_status != 2:
        return None
    return np.array(solution.col_value[:size]).reshape(n, s)
