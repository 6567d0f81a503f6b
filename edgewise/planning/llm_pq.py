"""LLM-PQ's integer program (arXiv 2403.01136, section 3.4 of the notes), per order of devices.

Binary z[b,i,j]: layer i on stage j in scheme b; x[i,j] = sum over b of z[b,i,j].

    sum over j of x[i,j] = 1;  sum over i, b of M[b,i] z[b,i,j] <= Mem_j
    x[0,0] = 1, x[L-1,N-1] = 1, every stage holds a layer, and stages follow one another:
        sum over k <= j of x[i,k]  <=  sum over k <= j of x[i-1,k]
    sum of omega[b,i] z[b,i,j] <= budget                       (added: a plan must keep its budget)

    faithful   sum T_pre_j + (m-1) T_pre + sum T_dec_j + (m'-1)(n-1) T_dec + theta sum omega z,
               T_j >= what stage j computes, T_j >= its hop, T >= T_j
    otherwise  sum pre_j + hops + (c m - 1) T_pre + (n-1) R + theta sum omega z,
               R >= sum dec_j + hops, R >= m' T_dec, T >= what links are occupied for

The published objective counts one decode step where m' = 1, and prompts are whole: pre_j is all of
them. Ours travel in c chunks, of which pre_j is one; R counts a round for each token, as the cost
model does (edgewise/costs.py). Embedding and head are layers here, so the published
code's charging of them once per block has nothing to apply to. The paper also enumerates
micro-batch sizes; a Problem's workload fixes them. It uses all devices; here every selection is an
order of its own. Orders are solved by rising linear relaxation, until that exceeds the best plan:
exact for this objective over the orders listed, but no proof about the problem's own score.
"""

import time

import numpy as np

from edgewise.errors import Infeasible
from edgewise.planning.highs import Program, whole_units
from edgewise.planning.pipeline import Choice, Pipeline, pipelines, to_names
from edgewise.planning.placement import alone_columns
from edgewise.planning.problem import PlanResult, Problem, result
from edgewise.planning.tables import INFINITY, Floats, Ints, tables, why_infeasible


def llm_pq(
    problem: Problem,
    theta: float = 1.0,
    *,
    faithful: bool = False,
    time_limit: float = 60.0,
    most_orders: int = 200,
) -> PlanResult:
    """The plan of least makespan plus `theta` seconds per unit of loss. Raises Infeasible where
    there is none, or none is found in time."""
    began, arrays = time.perf_counter(), tables(problem)
    orders, whole = pipelines(problem, arrays, theta, most_orders)
    best: tuple[float, Pipeline, Choice] | None = None
    bounds = sorted(
        ((relaxation(data, faithful=faithful), n) for n, data in enumerate(orders)),
        key=lambda pair: pair[0],
    )
    proven, solved = whole, 0
    for bound, n in bounds:
        left = began + time_limit - time.perf_counter()
        if bound == INFINITY or (best is not None and bound >= best[0] * (1 - 1e-12)):
            break
        if left <= 0:
            proven = False
            break
        status, choice = solve_order(orders[n], faithful=faithful, time_limit=left)
        proven, solved = proven and status != "unknown", solved + 1
        if choice is not None:
            proven = proven and status == "optimal"
            value = orders[n].value(choice, faithful=faithful)
            if best is None or value < best[0]:
                best = value, orders[n], choice
    if best is None:
        if not proven:
            raise Infeasible(f"found no plan in {time_limit:g} s and {len(orders)} device orders")
        raise why_infeasible(problem, arrays)
    value, data, choice = best
    claim = "least" if proven else "best found"
    return result(
        problem,
        "llm-pq",
        *to_names(arrays, data, choice),
        status="heuristic",
        began=began,
        why=f"makespan + loss {value:.4g} s, {claim} of {len(orders)} orders, {solved} solved",
    )


def relaxation(data: Pipeline, *, faithful: bool = False) -> float:
    """A lower bound on the objective of this order, infinite if nothing fits."""
    program, _, unit, constant = _program(data, faithful)
    solved = program.solve(60.0, relaxed=True)
    if solved.status == "infeasible":
        return INFINITY
    return solved.objective * unit + constant if solved.status == "optimal" else -INFINITY


def solve_order(
    data: Pipeline, *, faithful: bool = False, time_limit: float = 60.0
) -> tuple[str, Choice | None]:
    """The solver's status and the best placement found."""
    program, z, _, _ = _program(data, faithful)
    solved = program.solve(time_limit)
    if solved.status not in ("optimal", "bounded"):
        return solved.status, None
    return solved.status, chosen(solved.values, z)


def chosen(values: Floats, z: Ints) -> Choice:
    """The stage and the scheme of every layer."""
    flat = values[z].transpose(1, 0, 2).reshape(z.shape[1], -1).argmax(axis=1)
    return (flat % z.shape[2]).tolist(), (flat // z.shape[2]).tolist()


def constrained(data: Pipeline, cost: Floats) -> tuple[Program, Ints]:
    """The constraints, with `cost[b, i, j]` on z (infinite where z must be 0)."""
    program, (_, layers, count) = Program(), data.decode.shape
    usable = np.isfinite(data.decode) & data.allowed
    z = program.columns(data.decode.shape, np.where(usable, cost, INFINITY))
    size, room = whole_units(np.concatenate((data.size, data.shared[:, None]), axis=1), data.room)
    for i in range(layers):
        program.row(1, 1, (z[:, i], 1))
    for j in range(count):
        none = np.zeros(0, dtype=np.int64)
        alone = alone_columns(program, data.shared, z[:, :, j]) if count == 1 else none
        saved = (alone, -size[: len(alone), -1])
        program.row(-INFINITY, room[j], (z[:, :, j], size[:, :-1]), saved)
        program.row(1, INFINITY, (z[:, :, j], 1))
        for i in range(1, layers if j < count - 1 else 0):
            program.row(-INFINITY, 0, (z[:, i, : j + 1], 1), (z[:, i - 1, : j + 1], -1))
    if data.budget < INFINITY:
        scale = max(data.budget, 1e-300)
        omega = np.where(usable, data.omega[:, :, None] / scale, 0.0)
        program.row(-INFINITY, 1, (z, omega))
    return program, z


def _program(data: Pipeline, faithful: bool) -> tuple[Program, Ints, float, float]:
    """The program in units of a typical time, its z, that unit, and what every plan pays."""
    finite = data.decode[np.isfinite(data.decode)]
    unit = float(finite.mean()) * data.tokens if finite.size else 1.0
    unit = unit if unit > 0 else 1.0
    omega = np.broadcast_to(data.theta * data.omega[:, :, None] / unit, data.decode.shape)
    if faithful:
        program, z = constrained(data, omega)
        _published(program, data, z, unit)
        return program, z, unit, 0.0
    program, z = constrained(data, omega + data.prefill / unit)
    _fixed(program, data, z, unit)
    constant = float(data.step.sum() + data.prefill_hop.sum()) + data.ends
    return program, z, unit, constant


def _published(program: Program, data: Pipeline, z: Ints, unit: float) -> None:
    phases = (
        (data.prefill * data.chunks, data.prompt_hop, data.batches - 1),
        (data.decode, data.decode_hop, (data.batches - 1) * (data.tokens - 1)),
    )
    for seconds, hop, weight in phases:
        times = np.where(np.isfinite(seconds), seconds, 0.0) / unit
        each = program.columns((z.shape[2],), 1.0, INFINITY, integer=False)
        most = program.columns((1,), weight, INFINITY, integer=False)
        for j, step in enumerate(data.step / unit):
            program.row(step, INFINITY, (each[j], 1), (z[:, :, j], -times[:, :, j]))
            program.row(hop[j] / unit, INFINITY, (each[j], 1))
            program.row(0, INFINITY, (most, 1), (each[j], -1))


def _fixed(program: Program, data: Pipeline, z: Ints, unit: float) -> None:
    prefill = np.where(np.isfinite(data.prefill), data.prefill, 0.0) / unit
    decode = np.where(np.isfinite(data.decode), data.decode, 0.0) / unit
    filling = data.batches * data.chunks - 1
    slowest = program.columns((1,), filling, INFINITY, integer=False)
    busiest = program.columns((1,), 0.0, INFINITY, integer=False)
    rounds = program.columns((1,), data.tokens - 1, INFINITY, integer=False)
    for j, step in enumerate(data.step / unit):
        program.row(step, INFINITY, (slowest, 1), (z[:, :, j], -prefill[:, :, j]))
        program.row(step, INFINITY, (busiest, 1), (z[:, :, j], -decode[:, :, j]))
    program.row(data.prefill_busy.max() / unit, INFINITY, (slowest, 1))
    program.row(max(data.decode_busy.max(), data.ends_busy) / unit, INFINITY, (busiest, 1))
    constant = float(data.step.sum() + data.decode_hop.sum() + data.ends) / unit
    program.row(constant, INFINITY, (rounds, 1), (z, -decode))
    program.row(0, INFINITY, (rounds, 1), (busiest, -data.batches))
