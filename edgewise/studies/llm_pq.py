"""LLM-PQ's closed form, and its planners on a small synthetic cluster (arXiv 2403.01136).

Its cells: published/llm-pq.toml. Assumptions and how to read it: docs/studies/llm-pq.md.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial

import numpy as np

from edgewise.clusters import Cluster, Device, Network
from edgewise.costs import CostModel
from edgewise.errors import Infeasible
from edgewise.planning import PLANNERS, Objective, PlanResult, Problem
from edgewise.planning.llm_pq import llm_pq
from edgewise.planning.llm_pq_heuristic import llm_pq_heuristic
from edgewise.planning.pipeline import published_makespan
from edgewise.planning.tables import Floats
from edgewise.plots import save_lines
from edgewise.sensitivities import Sensitivity
from edgewise.simulation import SHAPES, simulate_plan, together
from edgewise.simulation.rooflines import Roofline, make_profile
from edgewise.specs import LayerSpec, ModelSpec, Workload
from edgewise.studies.page import Comparison, Figure, Page, Section, Value, comparison_section
from edgewise.studies.published import Table, load_published

STAGES, LOGGED_MICRO_BATCHES, LOGGED_TOKENS = 4, 4, 100  # of cluster 3's log
IDLE = np.zeros(STAGES)
PROMPT, NEW, SEQUENCES = 512, 100, 32  # the code's defaults [V]
MICRO_BATCHES = (1, 2, 4, 8, 16)
BLOCKS = 16
SECONDS = 5.0
SCHEMES = ("fp32", "bf16")
PLANNED: dict[str, Callable[[Problem], PlanResult]] = {
    "llm-pq (fixed objective)": partial(llm_pq, theta=0.0, time_limit=SECONDS),
    "llm-pq (published objective)": partial(llm_pq, theta=0.0, faithful=True, time_limit=SECONDS),
    "llm-pq heuristic": partial(llm_pq_heuristic, theta=0.0),
    "uniform, then place": PLANNERS["edgeshard-throughput"],
}
TEXT = (
    "Neither the paper's main table nor the profiles that its plans rest on were found, so none of "
    "its clusters can be planned again: only a solver's log is added up, and the planners are "
    "compared on **devices of our own invention**."
)


def llm_pq_page(micro_batches: Sequence[int] = MICRO_BATCHES) -> Page:
    """The log's arithmetic, the objective's flaw, and the planners side by side."""
    tables = load_published("llm-pq")
    stages = {phase: _stages(tables["stages"], phase) for phase in ("prefill", "decode")}
    sections = (
        log_section(stages["prefill"], stages["decode"], tables["objective"]),
        flaw_section(stages["decode"]),
        synthetic_section(micro_batches),
    )
    return Page("llm-pq", "LLM-PQ (arXiv 2403.01136)", TEXT, sections)


def _stages(logged: Table, phase: str) -> Floats:
    """Milliseconds of each of the log's stages."""
    row = logged[phase]
    return np.array([row["first"].value, *[row["others"].value] * (STAGES - 1)], float)


def log_section(prefill: Floats, decode: Floats, objective: Table) -> Section:
    """The published objective without its loss, of cluster 3's stage times."""
    comparisons = [
        Comparison(f"{phase}, ms", _logged_makespan(*times), objective[phase]["total"])
        for phase, times in (
            ("prefill", (prefill, IDLE)),
            ("decode", (IDLE, decode)),
            ("both", (prefill, decode)),
        )
    ]
    return comparison_section(
        "Cluster 3's objective, closed form",
        "The log's stage times put into the objective's formula: arithmetic, no reproduction.",
        comparisons,
    )


def _logged_makespan(prefill: Floats, decode: Floats, tokens: int = LOGGED_TOKENS) -> float:
    counts = LOGGED_MICRO_BATCHES, LOGGED_MICRO_BATCHES
    return published_makespan(prefill, decode, *counts, tokens)


def flaw_section(decode: Floats) -> Section:
    """What one micro-batch is charged for decoding."""
    rows: tuple[tuple[Value, ...], ...] = tuple(
        (str(m), *(published_makespan(IDLE, decode, m, m, tokens) for tokens in (100, 200)))
        for m in (1, 2, 4)
    )
    return Section(
        "What the published objective leaves out",
        "The same decode stages by number of micro-batches m': with one, an answer of any length "
        "costs a single step [D].",
        ("m'", "decode ms, n = 100", "decode ms, n = 200"),
        rows,
    )


@dataclass(frozen=True, slots=True)
class PlannerRun:
    """One planner at one number of micro-batches, tokens per second: of decoding by the cost
    model, and of whole answers by the simulator."""

    planner: str
    micro_batches: int
    predicted: float | None
    simulated: float | None
    loss: float | None
    note: str


def synthetic_problem(micro_batches: int) -> Problem:
    """Three slow devices and a fast one, with invented sensitivities."""
    model = replace(SHAPES[0], name=f"{BLOCKS} blocks of Llama-2-7b", layers=_some(SHAPES[0]))
    kinds = (
        Roofline("slow", 65e12, 320e9, step_seconds=1e-3),
        Roofline("fast", 112e12, 900e9, step_seconds=1e-3),
    )
    losses = tuple(0.01 * (1 + layer % 4) for layer in range(model.num_layers))
    sensitivity = Sensitivity(
        model.digest, "invented", 1.0, {"fp32": (0.0,) * model.num_layers, "bf16": losses}
    )
    profile = make_profile(model, kinds, SCHEMES)
    work = Workload(PROMPT, NEW, SEQUENCES, micro_batches)
    costs = CostModel(model, _synthetic_cluster(), profile, work, sensitivity)
    return Problem(costs, SCHEMES, Objective.THROUGHPUT, budget=sum(losses) / 2)


def _synthetic_cluster() -> Cluster:
    devices = (
        *[Device(f"slow-{n}", 8 * 10**9, kind="slow", processor="gpu") for n in (1, 2, 3)],
        Device("fast", 16 * 10**9, processor="gpu"),
    )
    network = Network(tuple(device.name for device in devices), 10e9 / 8, 1e-4)
    return Cluster(devices, (), "slow-1", (network,))


def _some(model: ModelSpec) -> tuple[LayerSpec, ...]:
    return (*model.layers[: BLOCKS + 1], model.layers[-1])


def synthetic_section(micro_batches: Sequence[int]) -> Section:
    """Every planner at every number of micro-batches."""
    runs = [_run(name, plan, count) for count in micro_batches for name, plan in PLANNED.items()]
    rows: tuple[tuple[Value, ...], ...] = tuple(
        (x.planner, str(x.micro_batches), x.predicted, x.simulated, x.loss, x.note) for x in runs
    )
    columns = ("planner", "micro-batches", "tokens/s, decoding (predicted)",
               "tokens/s, whole answers (simulated)", "loss", "how")  # fmt: skip
    return Section(
        "Throughput against micro-batches, synthetic cluster",
        f"{SEQUENCES} sequences, {PROMPT} tokens in, {NEW} out, fp32 or bf16 for each layer; "
        f"{SECONDS:g} s for each solve. Whole answers are the fair measure.",
        columns,
        rows,
        _micro_batches_figure(runs),
    )


def _run(name: str, plan: Callable[[Problem], PlanResult], micro_batches: int) -> PlannerRun:
    problem = synthetic_problem(micro_batches)
    try:
        result = plan(problem)
    except Infeasible as error:
        return PlannerRun(name, micro_batches, None, None, None, f"no plan: {error}")
    outcome = simulate_plan(problem.costs, result.plan, together(SEQUENCES, PROMPT, NEW))
    predicted, loss = result.estimate.tokens_per_second, result.estimate.loss
    simulated = outcome.tokens_per_second
    return PlannerRun(name, micro_batches, predicted, simulated, loss, result.explanation)


def _micro_batches_figure(runs: Sequence[PlannerRun]) -> Figure:
    series: dict[str, tuple[list[float], list[float]]] = {name: ([], []) for name in PLANNED}
    for run in runs:
        if run.simulated is not None:
            series[run.planner][0].append(run.micro_batches)
            series[run.planner][1].append(run.simulated)
    draw = partial(
        save_lines,
        series,
        title=f"{SEQUENCES} sequences on a synthetic cluster, whole answers simulated",
        x="micro-batches",
        y="tokens per second",
        log_x=True,
    )
    return Figure("llm-pq-micro-batches", draw)
