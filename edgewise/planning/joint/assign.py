"""Schemes for a fixed route: a small integer program.

min z   s.t.  z >= latency / passes,  z >= time of each device,  loss <= budget,  bytes <= cap
"""

from dataclasses import dataclass
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


@dataclass(frozen=True)
class Route:
    """A fixed device for every layer: what is left is a program over schemes, in units of the
    longest layer. `lines` are coefficients of x [N, S], of z, and a right side."""

    problem: JointProblem
    device: Ints
    lines: list[tuple[Floats, float, float]]
    least: float  # that z may be
    fixed: float  # seconds that no scheme changes
    unit: float  # seconds

    @staticmethod
    def of(p: JointProblem, device: Ints) -> "Route | None":
        """None where a link is missing or a layer may not lie there."""
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
        lines: list[tuple[Floats, float, float]] = []
        if np.isfinite(p.budget):
            scale = p.budget if p.budget > 0 else 1.0
            lines.append((p.loss / scale, 0.0, p.budget / scale))
        for j in sorted(set(names)):
            own = (device == j)[:, None]
            lines.append((np.where(own, p.bytes, 0.0) / p.cap[j], 0.0, 1.0))
            if p.passes > 1:
                lines.append((np.where(own, time, 0.0) / unit, -1.0, -steps[j] / unit))
        if np.isfinite(p.passes):
            lines.append((time / unit, -p.passes, -fixed / unit))
        least = max(hops, default=0.0) / unit if p.passes > 1 else 0.0
        return Route(p, device, lines, least, fixed, unit)

    def program(self, tightened: float = 1.0) -> highspy.HighsLp:
        """Minimise z; columns are x row by row, then z."""
        usable = self.problem.loss <= self.problem.budget * (1 + 1e-12)
        n, s = usable.shape
        size = n * s
        lp = highspy.HighsLp()
        lp.num_col_, lp.num_row_ = size + 1, n + len(self.lines)
        lp.col_cost_ = np.array([0.0] * size + [1.0])
        lp.col_lower_ = np.array([0.0] * size + [self.least])
        lp.col_upper_ = np.concatenate([usable.ravel().astype(float), [1e30]])
        limits = [right if z else right * tightened for _, z, right in self.lines]
        lp.row_lower_ = np.array([1.0] * n + [-1e30] * len(limits))
        lp.row_upper_ = np.array([1.0] * n + limits)
        index, value, start_at = list(range(size)), [1.0] * size, [i * s for i in range(n)]
        for row, z, _ in self.lines:
            start_at.append(len(index))
            cols = np.flatnonzero(row.ravel())
            index += [*cols.tolist(), size]
            value += [*row.ravel()[cols].tolist(), z]
        start_at.append(len(index))
        lp.a_matrix_.format_ = highspy.MatrixFormat.kRowwise
        lp.a_matrix_.start_, lp.a_matrix_.index_, lp.a_matrix_.value_ = start_at, index, value
        return lp


@dataclass(frozen=True)
class Prices:
    """What a route's linear relaxation says: no schemes make it quicker than `bound` seconds, and
    what a unit of loss, or of the first device's memory, is worth in seconds."""

    bound: float
    loss: float = 0.0
    memory: float = 0.0


def prices(p: JointProblem, device: Ints) -> Prices:
    """The bound is infinite where no schemes fit."""
    route = Route.of(p, device)
    if route is None:
        return Prices(np.inf)
    h = quiet_solver()
    h.passModel(route.program())
    h.run()
    status = h.getModelStatus()
    if status == highspy.HighsModelStatus.kInfeasible:
        return Prices(np.inf)
    if status != highspy.HighsModelStatus.kOptimal:
        return Prices(0.0)
    dual = [max(-x, 0.0) * route.unit for x in h.getSolution().row_dual[p.shape[0] :]]
    loss = dual.pop(0) if np.isfinite(p.budget) else 0.0
    bound = h.getInfo().objective_function_value * route.unit
    first = dual[0] / p.cap[0] if (device == 0).any() else 0.0
    return Prices(bound * (1 - 1e-9), loss / p.budget if p.budget > 0 else loss, first)


def assign(
    p: JointProblem,
    device: Ints,
    seconds: float = 2.0,
    gap: float = 1e-4,
    start: Ints | None = None,
) -> Placement | None:
    """Best schemes for layers on `device`, to a relative `gap`; None where none fits."""
    return settled(p, device, seconds, gap, start)[0]


def settled(
    p: JointProblem,
    device: Ints,
    seconds: float = 2.0,
    gap: float = 1e-4,
    start: Ints | None = None,
) -> tuple[Placement | None, float]:
    """Best schemes for layers on `device`, and seconds that no schemes there can beat: infinite
    where none fit."""
    route = Route.of(p, device)
    if route is None:
        return None, np.inf
    bound = 0.0
    for tightened in (1.0, 1 - 1e-6):  # the solver's own tolerance may let a limit be passed
        x, proven = _solve(route, tightened, seconds, gap, start)
        bound = max(bound, proven) if tightened == 1.0 else bound
        found = None if x is None else evaluate(p, device, x.argmax(1))
        if x is None or found is not None:
            return found, bound
    return None, bound


def _solve(
    route: Route, tightened: float, seconds: float, gap: float, start: Ints | None
) -> tuple[Floats | None, float]:
    """x [N, S], None where none was found in time; and a bound in seconds."""
    n, _, s = route.problem.shape
    size, lp = n * s, route.program(tightened)
    lp.integrality_ = [highspy.HighsVarType.kInteger] * size + [highspy.HighsVarType.kContinuous]
    h = quiet_solver(time_limit=seconds, mip_rel_gap=gap, mip_feasibility_tolerance=1e-9)
    h.passModel(lp)
    if start is not None:
        given = highspy.HighsSolution()
        one = np.zeros((n, s))
        one[np.arange(n), start] = 1.0
        above = [((row * one).sum() - right) / -z for row, z, right in route.lines if z < 0]
        given.col_value = [*one.ravel().tolist(), max([route.least, *above])]
        h.setSolution(given)
    h.run()
    if h.getModelStatus() == highspy.HighsModelStatus.kInfeasible:
        return None, np.inf
    solution, info = h.getSolution(), h.getInfo()
    bound = max(info.mip_dual_bound, 0.0) * route.unit * (1 - 1e-9)
    if not solution.value_valid or info.primal_solution_status != 2:
        return None, bound
    return np.array(solution.col_value[:size]).reshape(n, s), bound
