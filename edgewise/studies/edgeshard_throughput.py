"""EdgeShard's throughput, with and without bubbles, by closed form and by simulation."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial

from edgewise.costs import CostModel
from edgewise.errors import Infeasible
from edgewise.planning import PLANNERS, Objective, PlanResult, Problem
from edgewise.plans import Plan
from edgewise.plots import save_bars
from edgewise.simulation import SHAPES, load_testbed, simulate_plan, together
from edgewise.specs import ModelSpec, Workload
from edgewise.studies.page import (
    Comparison,
    Figure,
    OnStep,
    Section,
    Value,
    comparison_section,
)
from edgewise.studies.published import Table

ALGORITHM_2 = "EdgeShard (Algorithm 2)"
THROUGHPUT_METHODS: dict[str, Callable[[Problem], PlanResult]] = {
    "Edge-Solo": PLANNERS["solo"],
    "Cloud-Edge-Even": PLANNERS["cloud-edge-even"],
    "Cloud-Edge-Opt": PLANNERS["cloud-edge-opt"],
    ALGORITHM_2: PLANNERS["edgeshard-throughput"],
    "EdgeShard (Algorithm 1's plan)": PLANNERS["edgeshard"],
}
SMALL = "8 in 8 micro-batches of 1"
WORKLOADS = {  # (sequences, micro-batches), by the names that published/edgeshard.toml fits with
    "4 in one batch": (4, 1),
    "8 in 2 micro-batches of 4": (8, 2),
    SMALL: (8, 8),
}
NEW_TOKENS = 40


@dataclass(frozen=True, slots=True)
class Rates:
    """Tokens per second of one plan, with and without a barrier after each token."""

    closed: float
    closed_bubbles: float
    simulated: float
    simulated_bubbles: float


Case = tuple[str, str, str]  # model, method, workload


def throughput_problem(model: ModelSpec, sequences: int, micro_batches: int) -> Problem:
    """The testbed with 1 Mbps between source and cloud."""
    cluster, profile = load_testbed("edgeshard", model)
    work = Workload(32, 96, sequences, micro_batches)
    return Problem(CostModel(model, cluster, profile, work), objective=Objective.THROUGHPUT)


def plan_rates(problem: Problem, result: PlanResult) -> Rates:
    """What the cost model and the simulator say of one plan."""
    estimate, count = result.estimate, problem.costs.workload.sequences
    return Rates(
        estimate.tokens_per_second,
        count / estimate.round_seconds(bubbles=True),
        _simulated(problem.costs, result.plan, bubbles=False),
        _simulated(problem.costs, result.plan, bubbles=True),
    )


def _simulated(costs: CostModel, plan: Plan, *, bubbles: bool) -> float:
    """Decoding alone: prompts of one token, the pace of the second half of every answer."""
    count, half = costs.workload.sequences, NEW_TOKENS // 2
    outcome = simulate_plan(costs, plan, together(count, 1, NEW_TOKENS), bubbles=bubbles)
    times = [request.token_seconds for request in outcome.requests]
    paces = [(t[-2] - t[half]) / (NEW_TOKENS - 2 - half) for t in times]
    return sum(1 / pace for pace in paces)


def throughput_sections(throughput: Table, on_step: OnStep) -> tuple[Section, Section]:
    """The paper's throughput beside ours, and what bubbles cost."""
    rates = dict(_all_rates(on_step))
    return (
        comparison_section(
            "Throughput, tokens per second",
            "Source to cloud at 1 Mbps, no bubbles, closed form. The paper does not say the "
            "workload; it is a fit.",
            _comparisons(throughput, rates),
        ),
        _bubbles_section({case: x for case, x in rates.items() if x is not None}),
    )


def _all_rates(on_step: OnStep) -> Iterator[tuple[Case, Rates | None]]:
    for model in SHAPES:
        for method, plan in THROUGHPUT_METHODS.items():
            for workload, sizes in WORKLOADS.items():
                problem = throughput_problem(model, *sizes)
                try:
                    rates = plan_rates(problem, plan(problem))
                except Infeasible:
                    rates = None
                yield (model.name, method, workload), rates
            on_step(f"throughput, {model.name}, {method}")


def _comparisons(throughput: Table, rates: dict[Case, Rates | None]) -> list[Comparison]:
    comparisons = []
    for model, cells in throughput.items():
        for method in (name for name in THROUGHPUT_METHODS if name in (*cells, ALGORITHM_2)):
            theirs = cells[method.partition(" (")[0]]
            ours, note = rates[model, method, theirs.fit], ""
            if ours is None:
                note = "ours: does not fit in the memory that the script allows"
                if isinstance(theirs.value, str):
                    note = "ours, too"
            closed = None if ours is None else ours.closed
            comparisons.append(Comparison(f"{model}, {method}", closed, theirs, note))
    return comparisons


def _bubbles_section(rates: dict[Case, Rates]) -> Section:
    columns = ("model, method", "workload", "no bubbles", "bubbles", "gain",
               "no bubbles, simulated", "bubbles, simulated")  # fmt: skip
    rows: tuple[tuple[Value, ...], ...] = tuple(
        (f"{model}, {method}", workload, x.closed, x.closed_bubbles,
         f"{x.closed / x.closed_bubbles - 1:+.0%}", x.simulated, x.simulated_bubbles)
        for (model, method, workload), x in rates.items()
    )  # fmt: skip
    caption = (
        "Tokens per second. With bubbles, all micro-batches wait for each other after every token. "
        f"Simulated: {NEW_TOKENS} tokens, the pace of the second half."
    )
    return Section("Bubbles", caption, columns, rows, _bubbles_figure(rates))


def _bubbles_figure(rates: dict[Case, Rates]) -> Figure:
    picked = {
        method.replace(" (", "\n("): x
        for (model, method, workload), x in rates.items()
        if (model, workload) == (SHAPES[0].name, SMALL)
    }
    series = {
        "no bubbles": [x.closed for x in picked.values()],
        "no bubbles, simulated": [x.simulated for x in picked.values()],
        "bubbles": [x.closed_bubbles for x in picked.values()],
        "bubbles, simulated": [x.simulated_bubbles for x in picked.values()],
    }
    draw = partial(
        save_bars, tuple(picked), series, title=f"Llama2-7B, {SMALL}", y="tokens per second"
    )
    return Figure("edgeshard-bubbles", draw)
