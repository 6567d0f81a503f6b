"""Integer programs in matrix form for HiGHS (highspy): columns, then rows of coefficients."""

import time
from collections.abc import Sequence
from dataclasses import dataclass
from math import gcd

import highspy
import numpy as np
from numpy.typing import ArrayLike, NDArray

from edgewise.planning.tables import INFINITY, Floats, Ints

TOLERANCE = 1e-9


@dataclass(frozen=True, slots=True)
class Solution:
    """`status` is "optimal", "bounded" (a limit was reached; `gap` is relative), "infeasible", or
    "unknown" (it was reached before any solution). `values` has the value of every column; no
    solution's objective is below `bound`, which is infinite where there is none."""

    status: str
    values: Floats
    objective: float
    gap: float | None
    seconds: float
    bound: float


class Program:
    """Minimise costs subject to rows. Costs are best of the order of one: see `TOLERANCE`."""

    def __init__(self) -> None:
        self._cost: list[Floats] = []
        self._upper: list[Floats] = []
        self._integer: list[NDArray[np.bool_]] = []
        self._count = 0
        self._rows: list[tuple[float, float]] = []
        self._index: list[Ints] = []
        self._value: list[Floats] = []

    @property
    def num_columns(self) -> int:
        return self._count

    def columns(
        self,
        shape: tuple[int, ...],
        cost: ArrayLike = 0.0,
        upper: ArrayLike = 1.0,
        *,
        integer: bool = True,
    ) -> Ints:
        """New columns from 0 to `upper`, as an array of their numbers. An infinite cost fixes a
        column to 0."""
        costs = np.broadcast_to(np.asarray(cost, dtype=np.float64), shape).ravel()
        uppers = np.broadcast_to(np.asarray(upper, dtype=np.float64), shape).ravel()
        self._upper.append(np.where(costs < INFINITY, uppers, 0.0))
        self._cost.append(np.where(costs < INFINITY, costs, 0.0))
        self._integer.append(np.full(costs.size, integer))
        numbers = np.arange(self._count, self._count + costs.size).reshape(shape)
        self._count += costs.size
        return numbers

    def row(self, lower: float, upper: float, *parts: tuple[ArrayLike, ArrayLike]) -> None:
        """lower <= sum of the parts <= upper; a part is columns and their coefficients."""
        index, value = [], []
        for columns, coefficients in parts:
            numbers = np.asarray(columns, dtype=np.int64)
            factors = np.broadcast_to(np.asarray(coefficients, dtype=np.float64), numbers.shape)
            index.append(numbers.ravel())
            value.append(factors.ravel())
        if not (lower < INFINITY and upper > -INFINITY):  # HiGHS may not return from such rows
            raise ValueError(f"a row cannot lie between {lower} and {upper}")
        self._rows.append((lower, upper))
        self._index.append(np.concatenate(index))
        self._value.append(np.concatenate(value))

    def solve(
        self,
        time_limit: float,
        start: Floats | None = None,
        *,
        relaxed: bool = False,
        nodes: int | None = None,
        gap: float = 0.0,
    ) -> Solution:
        """`relaxed` drops the integrality: a lower bound. At most `nodes` of the search tree are
        looked at; it ends at a relative `gap`."""
        began, solver = time.perf_counter(), highspy.Highs()
        options = {"output_flag": False, "time_limit": time_limit, "threads": 1, "random_seed": 0}
        options |= {"mip_rel_gap": gap, "mip_abs_gap": TOLERANCE}
        if nodes is not None:
            options["mip_max_nodes"] = nodes
        options |= {"mip_feasibility_tolerance": TOLERANCE, "primal_feasibility_tolerance": 1e-9}
        for option, setting in options.items():
            solver.setOptionValue(option, setting)
        solver.passModel(self._model(relaxed))
        if start is not None:
            solution = highspy.HighsSolution()
            solution.col_value = list(start)
            solver.setSolution(solution)
        solver.run()
        seconds, info = time.perf_counter() - began, solver.getInfo()
        statuses = highspy.HighsModelStatus
        status = {statuses.kOptimal: "optimal", statuses.kInfeasible: "infeasible"}.get(
            solver.getModelStatus(), "unknown"
        )
        if status == "unknown" and info.primal_solution_status == 2:
            status = "bounded"
        values = np.array(solver.getSolution().col_value, dtype=np.float64)
        objective, bound = float(info.objective_function_value), float(info.mip_dual_bound)
        if relaxed:
            bound = objective if status == "optimal" else -INFINITY
        if status == "infeasible":
            bound = INFINITY
        left = float(info.mip_gap) if status == "bounded" else 0.0 if status == "optimal" else None
        return Solution(status, values, objective, left, seconds, bound)

    def _model(self, relaxed: bool) -> highspy.HighsLp:
        lp = highspy.HighsLp()
        lp.num_col_, lp.num_row_ = self._count, len(self._rows)
        lp.col_cost_ = np.concatenate(self._cost)
        lp.col_lower_ = np.zeros(self._count)
        lp.col_upper_ = np.concatenate(self._upper)
        lp.row_lower_ = np.array([lower for lower, _ in self._rows])
        lp.row_upper_ = np.array([upper for _, upper in self._rows])
        lp.a_matrix_.format_ = highspy.MatrixFormat.kRowwise
        lp.a_matrix_.start_ = np.cumsum([0, *map(len, self._index)]).astype(np.int32)
        lp.a_matrix_.index_ = np.concatenate(self._index).astype(np.int32)
        lp.a_matrix_.value_ = np.concatenate(self._value)
        if not relaxed:
            kinds = (highspy.HighsVarType.kContinuous, highspy.HighsVarType.kInteger)
            lp.integrality_ = [kinds[int(x)] for x in np.concatenate(self._integer)]
        return lp


def whole_units(sizes: Ints, rooms: Sequence[int] | Ints) -> tuple[Floats, Floats]:
    """Bytes in their greatest common unit, rooms rounded down to it: sums of small whole numbers,
    which a solver's tolerance cannot get wrong."""
    unit = max(gcd(*map(int, np.ravel(sizes))), 1)
    return sizes / unit, np.floor(np.asarray(rooms) / unit)
