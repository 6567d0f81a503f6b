"""Least loss at a given period, as a set partition of the layers into stages.

Where seconds do not count, order costs nothing: only which stage lies where matters. Columns are
stages (slot, a, b), and pairs [0, a) + [b, N) for the source; rows say that every layer is covered
once and every slot used at most `count` times. The linear relaxation is solved by generating
columns: with layer values v,

    sum(v) - sum over slots of count * max(0, best of sum(v over stage) - cost)

is a lower bound at any time. Missing links are ignored here, which keeps the bound valid; the
integer program over the columns that the bound cannot rule out gives routes, and itself bounds.
"""

import time as clock
from dataclasses import dataclass

import highspy
import numpy as np

from edgewise.planning.joint.arrays import Floats, Ints
from edgewise.planning.joint.columns import Master, Rows, Sharpener, device_rows
from edgewise.planning.joint.integer import pair_table
from edgewise.planning.joint.paths import Path
from edgewise.planning.joint.relax import Relaxation
from edgewise.planning.joint.solver import quiet_solver
from edgewise.planning.joint.stages import Lower


@dataclass
class Cover:
    bound: float
    route: Path | None
    value: float
    columns: int


def cover(
    relax: Relaxation,
    lower: Lower,
    goal: float,
    deadline: float,
    whole: bool = True,
) -> Cover:
    """`lower` holds the integer stage costs; the source's pair row is made here."""
    table = lower.bound
    slots = relax.slots
    n = table.shape[1] - 1
    price = np.where(slots.ends[:, None, None], np.inf, table).copy()
    first = int(np.flatnonzero(slots.shared & slots.starts)[0])
    price[first] = pair_table(relax.stages, first)  # [a, b] means [0, a) and [b, N)
    rows_of = Rows(n, first)
    sharp = Sharpener(relax, lower, price, first, goal)
    device = device_rows(slots)
    finite = price[np.isfinite(price)]
    big = max(goal, 1e-12) * 10 + (float(finite.max()) if finite.size else 1.0)
    master = Master(
        n,
        np.bincount(device, weights=np.where(slots.source, 0, slots.count)).astype(int).clip(1),
        np.bincount(device, weights=slots.required) > 0,
        big,
    )
    best, values = -np.inf, np.zeros(n)
    for _ in range(200):
        dual = master.solve()
        v, pi = dual[:n], -dual[n:]
        gain = rows_of.sums(v, len(price)) - price  # positive: worth more than it costs
        by_device = np.full(master.k, -np.inf)
        np.maximum.at(by_device, device, gain.max((1, 2)))
        limit = np.bincount(device, weights=np.where(slots.source, 0, slots.count)).clip(1)
        must = np.bincount(device, weights=slots.required) > 0
        bound = float(v.sum() - (limit * np.where(must, by_device, np.maximum(by_device, 0))).sum())
        if bound > best:
            best, values = bound, v
        if best > goal or clock.perf_counter() > deadline:
            break
        reduced = gain - pi[device][:, None, None]
        if reduced.max() <= 1e-7 * max(goal, 1e-9):
            weights = np.array(master.h.getSolution().col_value)[master.base :]
            if not sharp.raise_all(
                [master.columns[i] for i in np.flatnonzero(weights > 1e-6)], master
            ):
                break
            continue
        _price(master, reduced, price, rows_of, device)
    if best > goal or not whole:
        return Cover(best, None, np.inf, len(master.columns))
    for _ in range(6):
        found = _integer(
            relax, price, values, best, goal, rows_of, device, first, deadline, len(master.columns)
        )
        if found.route is None or clock.perf_counter() > deadline:
            return found
        columns = [(k, a, b) for k, a, b in found.route if not slots.shared[k]]
        pair = [x for x in found.route if slots.shared[x[0]]]
        columns += [(first, pair[0][2], pair[1][1])] if pair else []
        if not sharp.raise_all(columns, None):
            return found
    return found


def _price(master: Master, reduced: Floats, price: Floats, rows_of: Rows, device: Ints) -> None:
    """Per slot, the best stage of every beginning, the best few beginnings."""
    for k in range(len(reduced)):
        ends = reduced[k].argmax(1)
        value = reduced[k][np.arange(len(ends)), ends]
        for a in np.argsort(-value)[:12]:
            if value[a] > 1e-12:
                b = int(ends[a])
                master.add((k, int(a), b), float(price[k, a, b]), rows_of(k, int(a), b, device))


def _integer(
    relax: Relaxation,
    price: Floats,
    v: Floats,
    best: float,
    goal: float,
    rows_of: Rows,
    device: Ints,
    first: int,
    deadline: float,
    made: int,
) -> Cover:
    """The integer program over columns that may be part of a solution within the goal."""
    slots = relax.slots
    n = price.shape[1] - 1
    gain = rows_of.sums(v, len(price)) - price
    top = np.zeros(device.max() + 1)
    np.maximum.at(top, device, np.maximum(gain.max((1, 2)), 0))
    slack = top[device][:, None, None] - gain  # what using it instead of the best costs at least
    ks, starts, ends = np.nonzero(slack <= (goal - best) * (1 + 1e-9) + 1e-12)
    if len(ks) > 6000:
        order = np.argsort(slack[ks, starts, ends])[:6000]
        ks, starts, ends = ks[order], starts[order], ends[order]
        cut = True
    else:
        cut = False
    if not len(ks):
        return Cover(np.inf, None, np.inf, made)
    columns = list(zip(ks.tolist(), starts.tolist(), ends.tolist(), strict=True))
    rows = [rows_of(k, a, b, device) for k, a, b in columns]
    limit = np.bincount(device, weights=np.where(slots.source, 0, slots.count)).clip(1)
    must = np.bincount(device, weights=slots.required) > 0
    lp = highspy.HighsLp()
    lp.num_col_, lp.num_row_ = len(columns), n + len(limit)
    unit = max(goal, 1e-12)
    lp.col_cost_ = price[ks, starts, ends] / unit
    lp.col_lower_, lp.col_upper_ = np.zeros(len(columns)), np.ones(len(columns)) * limit[device[ks]]
    lp.integrality_ = [highspy.HighsVarType.kInteger] * len(columns)
    lp.row_lower_ = np.concatenate([np.ones(n), must.astype(float)])
    lp.row_upper_ = np.concatenate([np.ones(n), limit])
    lp.a_matrix_.format_ = highspy.MatrixFormat.kColwise
    lp.a_matrix_.start_ = np.concatenate([[0], np.cumsum([len(r) for r in rows])])
    lp.a_matrix_.index_ = np.concatenate(rows) if rows else np.zeros(0, int)
    lp.a_matrix_.value_ = np.ones(int(lp.a_matrix_.start_[-1]))
    left = max(min(2.5, deadline - clock.perf_counter()), 0.05)
    h = quiet_solver(time_limit=left, mip_rel_gap=0.02, objective_bound=1.0 + 1e-9)
    h.passModel(lp)
    h.run()
    if h.getModelStatus() == highspy.HighsModelStatus.kInfeasible and not cut:
        return Cover(np.inf, None, np.inf, made)
    info = h.getInfo()
    bound = (
        max(best, min(info.mip_dual_bound, 1e30) * unit)
        if not cut and info.mip_dual_bound > 0
        else best
    )
    if info.primal_solution_status != 2:
        return Cover(bound, None, np.inf, made)
    picked = np.flatnonzero(np.array(h.getSolution().col_value) > 0.5)
    stages: Path = []
    for i in picked:
        k, a, b = columns[i]
        last = int(np.flatnonzero(slots.ends)[0])
        stages += [(k, 0, a), (last, b, n)] if k == first else [(k, a, b)]
    return Cover(
        bound, sorted(stages, key=lambda x: x[1]), info.objective_function_value * unit, made
    )
