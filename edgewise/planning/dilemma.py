"""DILEMMA's joint layer placement and bit-width ILP (arXiv 2503.01704; section 2.1 of the notes).

    min  sum x[b,l,i] c_p[b,l,i] + sum z[b,l,i,k] c_m[b,l,i,k]                        (1), (2a)
    s.t. sum over b, i of x[b,l,i] = 1              every layer once, in one width        (2c)
         sum over b, l of x[b,l,i] <= 1             a server hosts one layer or none      (2d)
         sum over b, l of b W_l x[b,l,i] <= S_i     storage                               (2e)
         sum over k of z[b,l,i,k] = x[b,l,i]        what leaves i after l ...             (2f)
         sum over b, i of z[b,l,i,k] = sum over b of x[b,l+1,k]          ... arrives at k (2f)
         -delta <= sum x[b,l,i] e[b,l] <= delta     quality                          (6), (7)

    c_p[b,l,i] = T (F_l / f_i) (b / b0)             computing                             (3)
    c_m[b,l,i,k] = T (O_l b / R_ik + d_ik)          uploading at the layer's width        (4)

The paper's y_ik cannot carry a cost that depends on l and b; z can, and as a flow it is tighter
than y >= x + x' - 1. `solve_instance` is the paper, each generalisation a switch of its own:
several layers on a server (moving costs only between servers), activations at b0 bits.

`dilemma(problem)` is the same program on a Problem: measured times, hops and steps, the way in and
out, memory, pins, and the predicted loss within the budget as one row. Devices may hold any number
of layers, not necessarily neighbours. Its optimum is that of the latency objective over all plans.
"""

import time
from dataclasses import dataclass

import numpy as np

from edgewise.errors import Infeasible
from edgewise.planning.edgeshard import edgeshard
from edgewise.planning.placement import Placement, Start, placement_seconds, solve
from edgewise.planning.problem import Objective, PlanResult, Problem, result
from edgewise.planning.tables import (
    INFINITY,
    Floats,
    Ints,
    Tables,
    latency,
    tables,
    why_infeasible,
)
from edgewise.plans import Plan


@dataclass(frozen=True, slots=True)
class DilemmaInstance:
    """The paper's data: `flops[l]`, `clock[i]`, `bits` and the `original_bits` b0, `tokens` T,
    `outputs[l]` values O_l, `rate[i, k]` bits per second and `propagation[i, k]` seconds,
    `weights[l]`, `storage[i]` bits, the truncation error `error[b, l]` and `delta`."""

    flops: Floats
    clock: Floats
    bits: tuple[int, ...]
    original_bits: int
    tokens: int
    outputs: Floats
    rate: Floats
    propagation: Floats
    weights: Ints
    storage: Ints
    error: Floats
    delta: float


@dataclass(frozen=True, slots=True)
class DilemmaSolution:
    """The server and the bits of every layer, (2a)'s value, and how sure the solver is."""

    servers: tuple[int, ...]
    bits: tuple[int, ...]
    seconds: float
    status: str
    gap: float | None
    solve_seconds: float


def dilemma(problem: Problem, time_limit: float = 60.0, start: Plan | None = None) -> PlanResult:
    """The fastest plan with a scheme for every layer, proven or bounded by HiGHS, which starts from
    `start` or from EdgeShard's plan. Raises Infeasible where none exists, or none is found in
    `time_limit` seconds."""
    began, arrays = time.perf_counter(), tables(problem)
    data = placement_of(problem, arrays)
    try:
        start = start or edgeshard(problem).plan
        names = [stage.device for stage in start.stages for _ in stage.schemes]
        devices = [arrays.names.index(name) for name in names]
        first: Start | None = (devices, [arrays.schemes.index(s) for s in start.schemes])
    except Infeasible:
        first = None
    solved, path, widths = solve(data, time_limit, first)
    if solved.status == "unknown":
        raise Infeasible(f"found no plan in {time_limit:g} s, and no proof that there is none")
    if solved.status == "infeasible":
        raise why_infeasible(problem, arrays)
    best = problem.objective is Objective.LATENCY
    return result(
        problem,
        "dilemma",
        [arrays.names[i] for i in path],
        [arrays.schemes[b] for b in widths],
        status=solved.status if best else "heuristic",
        gap=solved.gap if best else None,
        began=began,
        why=f"HiGHS: {solved.status} for latency in {solved.seconds:.2g} s",
    )


def placement_of(problem: Problem, arrays: Tables) -> Placement:
    """The generalised program's data."""
    costs = latency(arrays, problem.first_token_weight)
    ends = np.zeros(arrays.allowed.shape)
    ends[0] += costs.first
    ends[-1] += costs.back
    usable = arrays.loss[:, :, None] <= problem.budget
    layers, count = arrays.allowed.shape
    return Placement(
        compute=np.where(arrays.allowed & usable, costs.seconds, INFINITY),
        upload=np.broadcast_to(costs.enter, (1, layers - 1, count, count)),
        ends=ends,
        size=arrays.size,
        room=arrays.room,
        error=np.where(usable[..., 0], arrays.loss, 0.0),
        limits=(-INFINITY, problem.budget),
        required=arrays.required,
        shared=arrays.shared,
    )


def solve_instance(
    instance: DilemmaInstance,
    *,
    several_layers: bool = False,
    own_activations: bool = False,
    time_limit: float = 60.0,
) -> DilemmaSolution:
    """The paper's program; the switches generalise it. Raises Infeasible, naming the rows."""
    x, layers, servers = instance, len(instance.flops), len(instance.clock)
    if servers < layers and not several_layers:
        raise Infeasible(f"(2d): {layers} layers need as many servers, there are {servers}")
    bits = np.array(x.bits, dtype=np.int64)
    share, sent = bits / x.original_bits, bits
    if own_activations:
        sent = np.array([x.original_bits])
    upload = sent[:, None, None, None] * x.outputs[:-1, None, None] / x.rate + x.propagation
    upload[..., range(servers), range(servers)] = 0.0 if several_layers else INFINITY
    data = Placement(
        compute=x.tokens * share[:, None, None] * x.flops[:, None] / x.clock,
        upload=x.tokens * upload,
        ends=np.zeros((layers, servers)),
        size=bits[:, None] * x.weights,
        room=x.storage,
        error=x.error,
        limits=(-x.delta, x.delta),
        required=np.zeros(servers, dtype=bool),
        shared=np.zeros(len(bits), dtype=np.int64),
        one_layer=not several_layers,
    )
    solved, path, widths = solve(data, time_limit, None)
    if solved.status == "unknown":
        raise Infeasible(
            f"found no placement in {time_limit:g} s, and no proof of there being none"
        )
    if solved.status == "infeasible":
        raise _why_not(data, x.delta)
    chosen = tuple(int(bits[b]) for b in widths)
    seconds = placement_seconds(data, path, widths)
    return DilemmaSolution(tuple(path), chosen, seconds, solved.status, solved.gap, solved.seconds)


def _why_not(data: Placement, delta: float) -> Infeasible:
    """For the paper's own program: which rows cannot hold."""
    least = float(data.size.min(axis=0).sum())
    if (short := least - float(data.room.sum())) > 0:
        return Infeasible(f"(2e): the layers need {least:g} bits of storage, {short:g} too little")
    low, high = float(data.error.min(axis=0).sum()), float(data.error.max(axis=0).sum())
    if low > delta or high < -delta:
        off = max(low - delta, -delta - high)
        return Infeasible(f"(6), (7): the error cannot come within {delta:g}; {off:g} is missing")
    return Infeasible("no placement satisfies (2c)-(2f) together with the quality rows (6), (7)")
