"""LLM-PQ's closed form, and its planners on a small synthetic cluster (arXiv 2403.01136).

Facts and tags: section 3 of the notes on planning papers.
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
from edgewise.plots import save_lines
from edgewise.sensitivities import Sensitivity
from edgewise.simulation import SHAPES, simulate, together
from edgewise.simulation.rooflines import Figures, make_profile
from edgewise.specs import LayerSpec, ModelSpec, Workload
from edgewise.studies.page import Compared, Figure, Page, Section, Value, compared

PROMPT, NEW, SEQUENCES = 512, 100, 32
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
    "**What is missing.** The profiles that the paper's plans rest on (per device, shape and "
    "bit-width) lie behind personal cloud links and were not found, nor was its main table of "
    "throughput per cluster, nor the generated omega files. So no cluster of the paper can be "
    "planned again here: only the solver's log can be recomputed, and the planners compared on "
    "devices of our own invention. Stored schemes are fp32, bf16 and fp16 so far; the paper's 3, "
    "4 and 8 bits come with quantized weights."
)


def llm_pq_page(micro_batches: Sequence[int] = MICRO_BATCHES) -> Page:
    sections = (closed_form(), flaw(), synthetic(micro_batches))
    return Page("llm-pq", "LLM-PQ (arXiv 2403.01136)", TEXT, sections)


PREFILL = np.array([1611.0, 1730.9, 1730.9, 1730.9])  # ms per stage, cluster 3's log
DECODE = np.array([156.13, 82.90, 82.90, 82.90])
NONE = np.zeros(4)


def closed_form() -> Section:
    """Section 3.4: cluster 3 (3 T4, 1 V100, OPT-30b)."""
    cells = [
        Compared(what, published_makespan(prefill, decode, 4, 4, NEW), published, "[D]", remark)
        for what, prefill, decode, published, remark in (
            ("prefill, ms", PREFILL, NONE, 11_996.1, "stages are printed to 0.1 ms"),
            ("decode, ms", NONE, DECODE, 46_775.1, "stages are printed to 0.01 ms, counted 300 x"),
            ("objective without loss, ms", PREFILL, DECODE, 58_771.25, ""),
        )
    ]
    return compared(
        "Cluster 3's objective, closed form",
        "The stage times of the repository's solver log, put into the objective of section 3.4 "
        "with m = m' = 4 and n = 100. 58,771.25 ms is the log's total; the notes derived its "
        "parts.",
        cells,
    )


def flaw() -> Section:
    rows: tuple[tuple[Value, ...], ...] = tuple(
        (str(m), *(published_makespan(NONE, DECODE, m, m, n) for n in (100, 200)))
        for m in (1, 2, 4)
    )
    return Section(
        "What the published objective leaves out",
        "The same decode stages by number of micro-batches m'. With one micro-batch the objective "
        "counts a single decode step, however long the answer [D]; the fixed objective "
        "(planning/llm_pq.py) counts a round trip for every token.",
        ("m'", "decode ms, n = 100", "decode ms, n = 200"),
        rows,
    )


@dataclass(frozen=True, slots=True)
class Point:
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
        Figures("slow", 65e12, 320e9, step_seconds=1e-3),
        Figures("fast", 112e12, 900e9, step_seconds=1e-3),
    )
    devices = (
        *[Device(f"slow-{n}", 8 * 10**9, kind="slow", processor="gpu") for n in (1, 2, 3)],
        Device("fast", 16 * 10**9, processor="gpu"),
    )
    network = Network(tuple(device.name for device in devices), 10e9 / 8, 1e-4)
    cluster = Cluster(devices, (), "slow-1", (network,))
    losses = tuple(0.01 * (1 + layer % 4) for layer in range(model.num_layers))
    sensitivity = Sensitivity(
        model.digest, "invented", 1.0, {"fp32": (0.0,) * model.num_layers, "bf16": losses}
    )
    costs = CostModel(
        model,
        cluster,
        make_profile(model, kinds, SCHEMES),
        Workload(PROMPT, NEW, SEQUENCES, micro_batches),
        sensitivity,
    )
    return Problem(costs, SCHEMES, Objective.THROUGHPUT, budget=sum(losses) / 2)


def _some(model: ModelSpec) -> tuple[LayerSpec, ...]:
    return (*model.layers[: BLOCKS + 1], model.layers[-1])


SYNTHETIC = (
    f"Invented, and only for comparing planners: {BLOCKS} blocks of Llama-2-7b's shape; three "
    "slow devices (8 GB, 320 GB/s, 65 TFLOP/s) and a fast one (16 GB, 900 GB/s, 112 TFLOP/s) by "
    "roofline, 1 ms per step, 10 Gbps and 0.1 ms between any two; schemes fp32 (no loss) and bf16 "
    "(0.01 to 0.04 per layer, in turn); the budget is half of what bf16 throughout would lose, so "
    f"that uniform bits means fp32, which favours mixing; theta = 0. {PROMPT} tokens in, "
    f"{NEW} out, {SEQUENCES} sequences [V: the code's defaults]. Both objectives count "
    "whole answers, so the simulated "
    "makespan is the fair measure; each solve has "
    f"{SECONDS:g} s. Uniform, then place: the least bottleneck (PipeEdge's rule) in one scheme."
)


def synthetic(micro_batches: Sequence[int]) -> Section:
    points = [point for count in micro_batches for point in _points(count)]
    rows: tuple[tuple[Value, ...], ...] = tuple(
        (p.planner, str(p.micro_batches), p.predicted, p.simulated, p.loss, p.note) for p in points
    )
    columns = ("planner", "micro-batches", "tokens/s, decoding (predicted)",
               "tokens/s, whole answers (simulated)", "loss", "how")  # fmt: skip
    title = "Throughput against micro-batches, synthetic cluster"
    return Section(title, SYNTHETIC, columns, rows, _figure(points))


def _points(micro_batches: int) -> list[Point]:
    asked = synthetic_problem(micro_batches)
    requests = together(SEQUENCES, PROMPT, NEW)
    points = []
    for name, plan in PLANNED.items():
        try:
            found = plan(asked)
        except Infeasible as error:
            points.append(Point(name, micro_batches, None, None, None, f"no plan: {error}"))
            continue
        outcome = simulate(asked.costs, found.plan, requests)
        predicted, loss = found.estimate.tokens_per_second, found.estimate.loss
        points.append(Point(name, micro_batches, predicted, outcome.tokens_per_second, loss,
                            found.explanation))  # fmt: skip
    return points


def _figure(points: Sequence[Point]) -> Figure:
    series: dict[str, tuple[list[float], list[float]]] = {name: ([], []) for name in PLANNED}
    for point in points:
        if point.simulated is not None:
            series[point.planner][0].append(point.micro_batches)
            series[point.planner][1].append(point.simulated)
    return Figure(
        "llm-pq-micro-batches",
        lambda path: save_lines(
            series,
            path,
            title=f"{SEQUENCES} sequences on a synthetic cluster, whole answers simulated",
            x="micro-batches",
            y="tokens per second",
            log_x=True,
        ),
    )
