"""EdgeShard's throughput, with and without bubbles, by closed form and by simulation."""

from collections.abc import Callable
from dataclasses import dataclass
from itertools import product

from edgewise.costs import CostModel
from edgewise.errors import Infeasible
from edgewise.planning import PLANNERS, Objective, PlanResult, Problem
from edgewise.plots import save_bars
from edgewise.simulation import SHAPES, load_testbed, simulate, together
from edgewise.specs import ModelSpec, Workload
from edgewise.studies.page import Compared, Figure, OnStep, Section, compared

METHODS: dict[str, Callable[[Problem], PlanResult]] = {
    "Edge-Solo": PLANNERS["solo"],
    "Cloud-Edge-Even": PLANNERS["cloud-edge-even"],
    "Cloud-Edge-Opt": PLANNERS["cloud-edge-opt"],
    "EdgeShard (Algorithm 2)": PLANNERS["edgeshard-throughput"],
    "EdgeShard (Algorithm 1's plan)": PLANNERS["edgeshard"],
}
WORKLOADS = {  # (sequences, micro-batches)
    "4 in one batch": (4, 1),
    "8 in 2 micro-batches of 4": (8, 2),
    "8 in 8 micro-batches of 1": (8, 8),
}
SMALL, BATCH = "8 in 8 micro-batches of 1", "4 in one batch"
# Tokens per second, and with which of the workloads the notes explain the cell (section 1.10).
THROUGHPUT: dict[str, dict[str, tuple[float | None, str, str]]] = {
    "Llama-2-7b": {
        "Edge-Solo": (24.36, "R", BATCH),
        "Cloud-Edge-Even": (7.56, "R", SMALL),
        "Cloud-Edge-Opt": (24.36, "R", BATCH),
        "EdgeShard (Algorithm 2)": (52.45, "V2", SMALL),
    },
    "Llama-2-13b": {
        "Edge-Solo": (None, "R", BATCH),
        "Cloud-Edge-Even": (4.68, "R", SMALL),
        "Cloud-Edge-Opt": (4.74, "R", SMALL),
        "EdgeShard (Algorithm 2)": (10.45, "R", SMALL),
    },
    "Llama-2-70b": {
        "Edge-Solo": (None, "V2", BATCH),
        "Cloud-Edge-Even": (None, "R", SMALL),
        "Cloud-Edge-Opt": (None, "R", SMALL),
        "EdgeShard (Algorithm 2)": (1.25, "R", SMALL),
    },
}
REMARKS = {
    ("Llama-2-7b", "Edge-Solo"): "4 / 0.174 s; the batch is the notes' guess [D]",
    ("Llama-2-7b", "Cloud-Edge-Even"): "bound by the 1 Mbps link",
    ("Llama-2-7b", "Cloud-Edge-Opt"): "local only, as published",
    ("Llama-2-7b", "EdgeShard (Algorithm 2)"): "batch 8 [V2]; micro-batches of 1 are our choice",
    ("Llama-2-13b", "EdgeShard (Algorithm 2)"): "cannot be matched: batch, profile unknown",
    ("Llama-2-70b", "EdgeShard (Algorithm 2)"): "cannot be matched: batch, profile unknown; "
    "1.25 has no independent check",
}
NEW_TOKENS = 40


@dataclass(frozen=True, slots=True)
class Rates:
    """Tokens per second of one plan, with and without a barrier after each token."""

    closed: float
    closed_bubbles: float
    simulated: float
    simulated_bubbles: float


def throughput_problem(model: ModelSpec, sequences: int, micro_batches: int) -> Problem:
    cluster, profile = load_testbed("edgeshard", model)
    work = Workload(32, 96, sequences, micro_batches)
    return Problem(CostModel(model, cluster, profile, work), objective=Objective.THROUGHPUT)


def rates(asked: Problem, found: PlanResult) -> Rates:
    estimate, count = found.estimate, asked.costs.workload.sequences
    return Rates(
        estimate.tokens_per_second,
        count / estimate.round_seconds(bubbles=True),
        _simulated(asked.costs, found, bubbles=False),
        _simulated(asked.costs, found, bubbles=True),
    )


def _simulated(costs: CostModel, found: PlanResult, *, bubbles: bool) -> float:
    """Decoding alone: prompts of one token, the pace of the second half of every answer."""
    count, half = costs.workload.sequences, NEW_TOKENS // 2
    outcome = simulate(costs, found.plan, together(count, 1, NEW_TOKENS), bubbles=bubbles)
    times = [request.token_seconds for request in outcome.requests]
    paces = [(t[-2] - t[half]) / (NEW_TOKENS - 2 - half) for t in times]
    return sum(1 / pace for pace in paces)


def throughput_sections(on_step: OnStep) -> tuple[Section, ...]:
    found: Found = {}
    for model, method in product(SHAPES, METHODS):
        for label, sizes in WORKLOADS.items():
            asked = throughput_problem(model, *sizes)
            found[model.name, method, label] = _rates(method, asked)
        on_step(f"throughput, {model.name}, {method}")
    columns = ("model, method", "workload", "no bubbles", "bubbles", "gain",
               "no bubbles, simulated", "bubbles, simulated")  # fmt: skip
    rows = tuple(
        (f"{model}, {method}", label, x.closed, x.closed_bubbles,
         f"{x.closed / x.closed_bubbles - 1:+.0%}", x.simulated, x.simulated_bubbles)
        for (model, method, label), x in found.items()
        if x is not None
    )  # fmt: skip
    return (
        compared("Throughput, tokens per second", TEXT, _cells(found)),
        Section("Bubbles", BUBBLES, columns, rows, _figure(found)),
    )


Found = dict[tuple[str, str, str], Rates | None]

TEXT = (
    "Source to cloud at 1 Mbps, no bubbles, closed form. The paper's batch is the largest that the "
    "devices hold [R], 8 for EdgeShard's 7B cell [V2]; micro-batches are stated nowhere. Each "
    "cell takes the workload with which the notes explain it: a batch of 4 where one device "
    "works, micro-batches of one sequence elsewhere. The published algorithm 2 is exact for its "
    "own goal, the least bottleneck with one block per device, and charges no return hop. The "
    "profile knows one batch size: a batch of 4 takes as long as one sequence until a device's "
    "peak [R] binds, so figures with batches, above all those of algorithm 1's plan, flatter."
)
BUBBLES = (
    "Without bubbles a micro-batch's next token starts as soon as its last is back; with bubbles "
    "all micro-batches wait for each other after every token. Closed form per token [D]: "
    "max(round trip, Q x bottleneck) and round trip + (Q - 1) x bottleneck. The simulator runs "
    f"{NEW_TOKENS} tokens of decoding and takes the pace of the second half; both agree but "
    "where a plan visits a device twice: lanes then wait for each other, or overlap. The "
    "paper's numbers were not found; that no-bubbles wins except locally is [R] and holds here."
)


def _rates(method: str, asked: Problem) -> Rates | None:
    try:
        return rates(asked, METHODS[method](asked))
    except Infeasible:
        return None


def _cells(found: Found) -> list[Compared]:
    cells = []
    for model, methods in THROUGHPUT.items():
        for method, (published, tag, label) in methods.items():
            x = found[model, method, label]
            remark = REMARKS.get((model, method), "")
            if published is None:
                remark = "published: out of memory" + ("; ours too" if x is None else "")
            elif x is None:
                remark = "ours: does not fit in the memory that the script allows"
            ours = None if x is None else x.closed
            cells.append(Compared(f"{model}, {method}, {label}", ours, published, f"[{tag}]",
                                  remark))  # fmt: skip
    return cells


def _figure(found: Found) -> Figure:
    keys = [key for key, x in found.items() if key[0] == "Llama-2-7b" and x and key[2] == SMALL]
    groups = [key[1].replace(" (", "\n(") for key in keys]
    picked = [x for key in keys if (x := found[key]) is not None]
    series = {
        "no bubbles": [x.closed for x in picked],
        "no bubbles, simulated": [x.simulated for x in picked],
        "bubbles": [x.closed_bubbles for x in picked],
        "bubbles, simulated": [x.simulated_bubbles for x in picked],
    }
    return Figure(
        "edgeshard-bubbles",
        lambda path: save_bars(
            groups, series, path, title=f"Llama2-7B, {SMALL}", y="tokens per second"
        ),
    )
