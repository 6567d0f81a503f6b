"""EdgeShard's tables (arXiv 2405.14371) on its testbed (simulation/testbeds).

Its cells: published/edgeshard.toml. Assumptions and how to read it: docs/studies/edgeshard.md.
"""

from collections.abc import Callable, Mapping, Sequence
from functools import partial

from edgewise.costs import CostModel
from edgewise.errors import Infeasible
from edgewise.planning import PLANNERS, Objective, PlanResult, Problem
from edgewise.planning.edgeshard_exact import edgeshard_exact
from edgewise.plots import save_lines
from edgewise.simulation import SHAPES, load_testbed
from edgewise.specs import ModelSpec, Workload
from edgewise.studies.edgeshard_throughput import throughput_sections
from edgewise.studies.page import (
    Comparison,
    Figure,
    OnStep,
    Page,
    Section,
    Value,
    comparison_section,
    quietly,
)
from edgewise.studies.published import Table, column_name, load_published

WORK = Workload(prompt_tokens=32, new_tokens=96)  # [V2]
MBPS = (1, 2, 5, 10, 15, 20, 25, 30, 40, 50)
EXACT_SECONDS = 5.0
EXACT = "EdgeShard (exact)"
LATENCY_METHODS: dict[str, Callable[[Problem], PlanResult]] = {
    "Edge-Solo": PLANNERS["solo"],
    "Cloud-Edge-Even": PLANNERS["cloud-edge-even"],
    "Cloud-Edge-Opt": PLANNERS["cloud-edge-opt"],
    "EdgeShard (published DP)": PLANNERS["edgeshard"],
    EXACT: partial(edgeshard_exact, time_limit=EXACT_SECONDS),
}
TEXT = (
    "EdgeShard's methods on its testbed, by our cost model. **13B and 70B have no profile: their "
    "times are those of Llama2-7B scaled by the bytes of their weights.**"
)


def edgeshard_page(on_step: OnStep = quietly) -> Page:
    """Latency, throughput, bubbles, bandwidth and source: every table that is known of."""
    tables = load_published("edgeshard")
    latency = []
    for model in SHAPES:
        latency += latency_comparisons(model, tables["latency"])
        on_step(f"latency, {model.name}")
    caption = f"Source to cloud at 1 Mbps; the exact search has {EXACT_SECONDS:g} s for each cell."
    sections = (
        comparison_section("Latency, milliseconds per token", caption, latency),
        *throughput_sections(tables["throughput"], on_step),
        bandwidth_section(tables["bandwidth"], on_step),
        source_section(tables["source"]),
    )
    return Page("edgeshard", "EdgeShard (arXiv 2405.14371)", TEXT, sections)


def latency_problem(model: ModelSpec, *, mbps: float = 1.0, source: str = "agx-1") -> Problem:
    """The testbed with `mbps` between source and cloud, one sequence at a time."""
    rate = mbps * 1e6 / 8
    cluster, profile = load_testbed("edgeshard", model, source=source, source_bytes_per_second=rate)
    return Problem(CostModel(model, cluster, profile, WORK), objective=Objective.LATENCY)


def milliseconds_per_token(method: str, problem: Problem) -> tuple[float | None, str]:
    """A method's latency, None where nothing fits; and why, or how far from the best it may be."""
    try:
        result = LATENCY_METHODS[method](problem)
    except Infeasible as error:
        return None, f"ours: {error}"
    bound = f"optimal within {result.gap:.1%}" if result.status == "bounded" else ""
    return result.estimate.decode_seconds * 1e3, bound


def latency_comparisons(model: ModelSpec, latency: Table) -> list[Comparison]:
    """One model's cells: by the paper's names, its EdgeShard beside both of ours."""
    comparisons = []
    for method in LATENCY_METHODS:
        theirs = latency[model.name][_paper_name(method)]
        ours, note = milliseconds_per_token(method, latency_problem(model))
        if ours is None and isinstance(theirs.value, str):
            note = "ours, too"
        comparisons.append(Comparison(f"{model.name}, {method}", ours, theirs, note))
    return comparisons


def _paper_name(method: str) -> str:
    return method.partition(" (")[0]


def bandwidth_section(derived: Table, on_step: OnStep) -> Section:
    """7B against the rate between source and cloud."""
    sweep: dict[int, list[float | None]] = {}
    for mbps in MBPS:
        problem = latency_problem(SHAPES[0], mbps=mbps)
        sweep[mbps] = [milliseconds_per_token(method, problem)[0] for method in LATENCY_METHODS]
        on_step(f"{mbps} Mbps")
    names = tuple(next(iter(derived.values())))
    theirs = (column_name(name, [row[name] for row in derived.values()]) for name in names)
    return Section(
        "Latency against the source-cloud link, Llama2-7B",
        "Milliseconds per token. The paper's points were not found; derived is the project's own "
        "earlier reproduction, from exact times per layer.",
        ("Mbps", *LATENCY_METHODS, *theirs),
        tuple((mbps, *ours, *_values(derived, mbps, names)) for mbps, ours in sweep.items()),
        _bandwidth_figure(sweep),
    )


def _values(table: Table, mbps: int, names: tuple[str, ...]) -> tuple[Value, ...]:
    row = table.get(str(mbps))
    return tuple(None if row is None else row[name].value for name in names)


def _bandwidth_figure(sweep: Mapping[int, Sequence[float | None]]) -> Figure:
    lines: dict[str, tuple[list[float], list[float]]] = {}
    for column, method in enumerate(LATENCY_METHODS):
        points = [(mbps, ms) for mbps, row in sweep.items() if (ms := row[column]) is not None]
        lines[method] = [float(mbps) for mbps, _ in points], [ms for _, ms in points]
    draw = partial(
        save_lines,
        lines,
        title="Llama2-7B: latency against the source's link to the cloud",
        x="Mbps between source and cloud",
        y="milliseconds per token",
        log_x=True,
    )
    return Figure("edgeshard-bandwidth", draw)


def source_section(believed: Table) -> Section:
    """What another board as the source changes, 7B."""
    comparisons = []
    for method in ("Edge-Solo", "Cloud-Edge-Opt", EXACT):
        theirs = believed[_paper_name(method)]["nx-minus-agx"]
        agx, nx = (
            milliseconds_per_token(method, latency_problem(SHAPES[0], source=source))[0]
            for source in ("agx-1", "nx-1")
        )
        if agx is None or nx is None:
            moved, note = None, "ours, too (28 GB)"
        else:
            moved, note = nx - agx, f"ours: {agx:.1f} ms from the AGX, {nx:.1f} ms from the NX"
        comparisons.append(Comparison(method, moved, theirs, note))
    return comparison_section(
        "Source node, Llama2-7B",
        "Milliseconds per token more with an Orin NX as the source than with an AGX Orin; 1 Mbps "
        "to the cloud.",
        comparisons,
    )
