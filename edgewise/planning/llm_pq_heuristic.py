"""LLM-PQ's heuristic (arXiv 2403.01136; section 3.5 of the notes), per order of devices.

1. AdaBits: the least sum of omega under memory, contiguity and budget; times do not count.
2. The slowest stage by (m-1) pre_j + (n-1)(m'-1) dec_j is the straggler (m - 1 counts as 1 where
   there is one micro-batch). For every faster stage, the pioneer, fastest first, try conversions
   (bits p -> bits s, p >= s, moving p / s layers): one of the pioneer's layers goes from p to s,
   and p / s layers of the straggler move over in s, stages in between passing on as many. Of those
   that fit and lower the objective take the one of least omega; stop when no pioneer has one.

Which layers a conversion may take is not in the source; here the moved ones are those at the edge,
and the converted one is that of least omega. The conversions of the source, 16 -> 8 x 2 to
4 -> 4 x 1, become those between any two of the problem's schemes.
"""

import time
from collections.abc import Iterator

import numpy as np

from edgewise.errors import Infeasible
from edgewise.planning.llm_pq import chosen, constrained
from edgewise.planning.pipeline import Choice, Pipeline, pipelines, to_names
from edgewise.planning.problem import PlanResult, Problem, result
from edgewise.planning.tables import Floats, tables, why_infeasible
from edgewise.schemes import get_scheme

MOST_MOVES = 200


def llm_pq_heuristic(
    problem: Problem,
    theta: float = 1.0,
    *,
    faithful: bool = False,
    time_limit: float = 30.0,
    most_orders: int = 200,
) -> PlanResult:
    """A plan of small makespan plus `theta` seconds per unit of loss, quickly. Raises Infeasible
    where none is found."""
    began, arrays = time.perf_counter(), tables(problem)
    orders, _ = pipelines(problem, arrays, theta, most_orders)
    bits = [get_scheme(name).weight_bits for name in problem.schemes]
    best: tuple[float, Pipeline, Choice] | None = None
    tried = 0
    for data in orders:
        left = began + time_limit - time.perf_counter()
        if left <= 0:
            break
        tried += 1
        if (choice := adabits(data, left)) is None:
            continue
        choice = improve(data, choice, bits, faithful=faithful)
        value = data.value(choice, faithful=faithful)
        if best is None or value < best[0]:
            best = value, data, choice
    if best is None:
        if tried < len(orders):
            raise Infeasible(f"found no plan in {time_limit:g} s and {tried} device orders")
        raise why_infeasible(problem, arrays)
    value, data, choice = best
    return result(
        problem,
        "llm-pq-heuristic",
        *to_names(arrays, data, choice),
        status="heuristic",
        began=began,
        why=f"makespan and loss of {value:.4g} s, best found in {tried} of {len(orders)} orders",
    )


def adabits(data: Pipeline, time_limit: float = 30.0) -> Choice | None:
    """The placement of least loss, None if there is none."""
    scale = max(float(data.omega.max()), 1e-12)
    program, z = constrained(
        data, np.broadcast_to(data.omega[:, :, None] / scale, data.decode.shape)
    )
    solved = program.solve(time_limit)
    return chosen(solved.values, z) if solved.status in ("optimal", "bounded") else None


def improve(data: Pipeline, choice: Choice, bits: list[float], *, faithful: bool = False) -> Choice:
    """Step 2, from a placement."""
    for _ in range(MOST_MOVES):
        value = data.value(choice, faithful=faithful)
        times = _weighted(data, choice, faithful)
        straggler = int(times.argmax())
        for pioneer in np.argsort(times, kind="stable")[:-1].tolist():
            moved = [
                option
                for option in _conversions(data, choice, bits, straggler, pioneer)
                if data.fits(option) and data.value(option, faithful=faithful) < value * (1 - 1e-12)
            ]
            if moved:
                choice = min(moved, key=lambda option: _omega(data, option))
                break
        else:
            return choice
    return choice


def _weighted(data: Pipeline, choice: Choice, faithful: bool) -> Floats:
    prefill, decode = data.stages(choice, faithful=faithful)
    filling = max(data.batches * (1 if faithful else data.chunks) - 1, 1)
    weighted: Floats = filling * prefill + max(data.batches - 1, 1) * (data.tokens - 1) * decode
    return weighted


def _omega(data: Pipeline, choice: Choice) -> float:
    return float(data.omega[choice[1], range(len(choice[1]))].sum())


def _conversions(
    data: Pipeline, choice: Choice, bits: list[float], straggler: int, pioneer: int
) -> Iterator[Choice]:
    """Placements one conversion away."""
    if straggler == pioneer:
        return
    for p, wide in enumerate(bits):
        for s, narrow in enumerate(bits):
            if wide < narrow:
                continue
            stage = _shift(choice[0], straggler, pioneer, max(int(wide // narrow), 1))
            if stage is None:
                continue
            scheme = list(choice[1])
            own = [i for i, j in enumerate(choice[0]) if j == pioneer and scheme[i] == p]
            if p != s:
                if not own:
                    continue
                scheme[min(own, key=lambda i: float(data.omega[s, i] - data.omega[p, i]))] = s
            for i, (before, after) in enumerate(zip(choice[0], stage, strict=True)):
                if after == pioneer and before != pioneer:
                    scheme[i] = s
            yield stage, scheme


def _shift(stage: list[int], straggler: int, pioneer: int, count: int) -> list[int] | None:
    """Move `count` layers out of the straggler and into the pioneer; each stage in between keeps
    its number of layers. None if the straggler would be empty."""
    sizes = np.bincount(stage)
    if sizes[straggler] <= count:
        return None
    sizes[straggler] -= count
    sizes[pioneer] += count
    return [j for j, size in enumerate(sizes.tolist()) for _ in range(size)]
