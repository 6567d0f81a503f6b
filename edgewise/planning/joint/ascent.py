"""The relaxation's bound maximised: cutting planes in a trust region."""

import time as clock

import highspy
import numpy as np

from edgewise.planning.joint.arrays import Floats
from edgewise.planning.joint.relax import Cut, Dual, Relaxation, pack, unpack
from edgewise.planning.joint.solver import quiet_solver


def ascend(
    relax: Relaxation,
    dual: Dual,
    scale: Floats,
    target: float,
    rounds: int,
    deadline: float,
    tolerance: float = 1e-4,
    radius: float = 1.0,
) -> Dual:
    """Maximise the bound by cutting planes in a box around the best point; stop at `target`."""
    free = scale > 0
    low = np.concatenate([np.zeros(3), np.where(relax.slots.required, -np.inf, 0.0)])
    centre = pack(dual)
    best, cuts, lower = relax.value(dual)
    relax.paths += [c.path for c in cuts]
    for step in range(rounds):
        if best > target or clock.perf_counter() > deadline or not np.isfinite(best):
            break
        point, promised = _master(cuts[-160:], centre, np.where(free, scale * radius, 0.0), low)
        slight = tolerance * 0.1 * max(abs(best), 1e-12)
        if promised - best <= slight and (radius >= 1.0 or promised - best <= slight * 1e-4):
            break
        value, found, lower = relax.value(unpack(point))
        relax.paths += [c.path for c in found]
        cuts += found
        if value > best:
            radius = min(radius * 2, 64.0) if value - best >= 0.3 * (promised - best) else radius
            best, centre = value, point
        else:
            radius *= 0.6
        if step % 4 == 3 and found and relax.stages.weight:
            relax.refine(found[0].path, lower)
    done = unpack(centre)
    done.bound = best
    return done


def _master(cuts: list[Cut], centre: Floats, box: Floats, low: Floats) -> tuple[Floats, float]:
    """Greatest minimum of the cuts in the box (a linear program)."""
    use = np.flatnonzero(box > 0)
    d, c = len(use), len(cuts)
    slopes = np.array([x.slope[use] for x in cuts])
    right = np.array([x.value - x.slope[use] @ (x.point - centre)[use] for x in cuts])
    norm = box[use]
    h = quiet_solver()
    lp = highspy.HighsLp()
    lp.num_col_, lp.num_row_ = d + 1, c
    lp.col_cost_ = np.array([0.0] * d + [-1.0])
    lp.col_lower_ = np.concatenate([np.maximum(-1.0, (low[use] - centre[use]) / norm), [-1e30]])
    lp.col_upper_ = np.concatenate([np.ones(d), [1e30]])
    lp.row_lower_ = np.full(c, -1e30)
    lp.row_upper_ = right
    matrix = np.hstack([-slopes * norm[None, :], np.ones((c, 1))])
    lp.a_matrix_.format_ = highspy.MatrixFormat.kRowwise
    lp.a_matrix_.start_ = np.arange(c + 1) * (d + 1)
    lp.a_matrix_.index_ = np.tile(np.arange(d + 1), c)
    lp.a_matrix_.value_ = matrix.ravel()
    h.passModel(lp)
    h.run()
    x = np.array(h.getSolution().col_value)
    point = centre.copy()
    point[use] = np.maximum(centre[use] + x[:d] * norm, low[use])
    return point, float(x[-1])
