"""DFTSP's study: the search beside brute force, four policies in the paper's model of epochs and on
a simulated server of ours. Its cells: published/dftsp.toml; how to read it: docs/studies/dftsp.md.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from math import comb
from random import Random

from edgewise.batching import POLICIES, largest_set
from edgewise.batching.pace import Pace, pace_of
from edgewise.clusters import Cluster
from edgewise.costs import CostModel
from edgewise.planning import PLANNERS, Problem
from edgewise.plans import Plan, Stage
from edgewise.plots import save_lines
from edgewise.runtime.limits import limits_of
from edgewise.simulation import SHAPES, load_testbed
from edgewise.simulation.rooflines import Roofline, make_profile
from edgewise.specs import LayerKind, LayerSpec, ModelSpec, Workload
from edgewise.studies.dftsp.epochs import (
    EPOCH_POLICIES,
    METHODS,
    MODELS,
    EpochModel,
    Station,
    answered_in_time,
    draw_users,
)
from edgewise.studies.dftsp.server import simulate_server
from edgewise.studies.dftsp.traffic import Traffic, share_in_time
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
from edgewise.studies.published import Cell, Table, load_published

TEXT = (
    "Only the paper's abstract was read: its setting is *believed*, its curves are unknown, and "
    "what its model costs is a reconstruction. So the policies are compared with each other, not "
    "with the paper."
)
CANDIDATES = (4, 6, 8, 10, 12, 16, 20)
INSTANCES = 100  # of each number of candidates
ENOUGH = 10**6  # sets: no search was cut off
PATIENT = (1.0, 4.0)  # seconds, so that some are left when an epoch begins
RATES = (2.0, 5.0, 10.0, 20.0, 50.0, 100.0)
PATIENCES = (1.0, 1.5, 2.0, 3.0, 4.0)
RATE = 10  # where another thing is varied
EPOCHS = 30
LOADS = (0.5, 0.75, 1.0, 1.5, 2.0, 3.0)
SEEDS = (0, 1, 2)
WORK, MOST_CONTEXT = Workload(64, 64, sequences=8), 2048
REQUESTS = 100


def dftsp_page(
    on_step: OnStep = quietly, *, epochs: int = EPOCHS, seeds: Sequence[int] = SEEDS
) -> Page:
    """All sections. `epochs` and `seeds` say how much is simulated."""
    tables = load_published("dftsp")
    station = Station.of(tables["setting"])
    sections = [*work_sections(station, tables["complexity"]["DFTSP"]["spared"], on_step)]
    sections += epoch_sections(station, epochs, on_step)
    sections += [server_section(name, *pace, seeds, on_step) for name, pace in paces().items()]
    sections.append(setting_section(tables["setting"]))
    return Page("dftsp", "DFTSP (arXiv 2405.07140)", TEXT, tuple(sections))


# The search


@dataclass(frozen=True, slots=True)
class Work:
    """Sets looked at in INSTANCES epochs of so many candidates, by DFTSP's search and by brute
    force, at least."""

    candidates: int
    checked: int
    least: int


def work_sections(station: Station, spared: Cell, on_step: OnStep) -> tuple[Section, Section]:
    """How many sets are looked at, beside brute force."""
    works = [_work(EpochModel(station), count, on_step) for count in CANDIDATES]
    comparisons = [
        Comparison(f"{x.candidates} candidates", 1 - x.checked / x.least, spared) for x in works
    ]
    comparison = comparison_section(
        "Work spared beside brute force",
        "Share of the sets that brute force looks at which DFTSP's search need not look at. What "
        "the paper counts, and of how many requests, is not known.",
        comparisons,
    )
    columns = ("candidates", "sets, DFTSP", "sets, brute force", "all sets", "ratio to all sets")
    rows = tuple(
        (str(x.candidates), x.checked / INSTANCES, x.least / INSTANCES, 2.0**x.candidates,
         x.checked / INSTANCES / 2**x.candidates)
        for x in works
    )  # fmt: skip
    caption = (
        f"Mean of {INSTANCES} epochs of each number of candidates. Brute force tries the largest "
        "sets first, and is lucky with those of the right size: all larger ones, and one."
    )
    return comparison, Section("Sets looked at", caption, columns, rows)


def _work(model: EpochModel, count: int, on_step: OnStep) -> Work:
    checked = least = 0
    for seed in range(INSTANCES):
        users, draw = draw_users(count, PATIENT, 10.0, seed)[:count], Random(seed)
        waiting = [model.candidate(i, x, x.at + draw.random()) for i, x in enumerate(users)]
        choice = largest_set(waiting, model.room, ENOUGH)
        checked += choice.checked
        larger = range(len(choice.chosen) + 1, len(waiting) + 1)
        least += 1 + sum(comb(len(waiting), size) for size in larger)
    on_step(f"search, {count} candidates")
    return Work(count, checked, least)


# The paper's epochs


def epoch_sections(station: Station, epochs: int, on_step: OnStep) -> list[Section]:
    """Users answered in time per second, against one thing after the other."""
    seconds, usual, model = epochs * station.epoch, (0.5, 2.0), EpochModel(station)

    def row(model: EpochModel, rate: float, patience: tuple[float, float]) -> list[float]:
        users = draw_users(rate, patience, seconds, seed=0)
        counts = [answered_in_time(model, name, users, epochs) for name in EPOCH_POLICIES]
        return [answered / seconds for answered in counts]

    by_rate = {rate: row(model, rate, usual) for rate in RATES}
    on_step("epochs, arrival rates")
    by_patience = {longest: row(model, RATE, (0.5, longest)) for longest in PATIENCES}
    on_step("epochs, deadlines")
    by_method = {
        f"{language.name}, {method.name}": row(EpochModel(station, language, method), RATE, usual)
        for language in MODELS
        for method in METHODS
    }
    on_step("epochs, quantization")
    what = f"{MODELS[0].name}, {METHODS[1].name}"
    return [
        _swept("Throughput against arrival rate", f"{what}.", "users a second", by_rate, "rate"),
        _swept("Throughput against deadline", f"{what}; {RATE} users a second, patient for 0.5 s "
               "up to so many.", "longest patience, s", by_patience, "deadline"),
        _table("Throughput against quantization", f"{RATE} users a second. What methods cost is "
               "invented.", "model, method", by_method),
    ]  # fmt: skip


def _table(title: str, caption: str, what: str, rows: Mapping[str, Sequence[float]]) -> Section:
    columns = (what, *EPOCH_POLICIES)
    caption = f"Users answered in time, a second. {caption}"
    return Section(title, caption, columns, tuple((x, *row) for x, row in rows.items()))


def _swept(
    title: str, caption: str, what: str, rows: Mapping[float, Sequence[float]], name: str
) -> Section:
    table = _table(title, caption, what, {f"{x:g}": row for x, row in rows.items()})
    series = _lines(rows)
    draw = partial(save_lines, series, title=title, x=what, y="answered in time, a second",
                   log_x=name == "rate")  # fmt: skip
    return Section(title, table.caption, table.columns, table.rows, Figure(f"dftsp-{name}", draw))


def _lines(rows: Mapping[float, Sequence[float]]) -> dict[str, tuple[list[float], list[float]]]:
    columns = zip(*rows.values(), strict=True)
    return {name: (list(rows), list(y)) for name, y in zip(POLICIES, columns, strict=True)}


# Our server


def paces() -> dict[str, tuple[str, Pace]]:
    """Of a small model on a processor, and of a large one on EdgeShard's devices."""
    return {
        "smollm2": ("SmolLM2's shape on two cores", _small()),
        "llama": ("Llama-2-7b on EdgeShard's devices", _large()),
    }


def _small() -> Pace:
    """30 blocks of width 576 in 8 bits, where memory gives 28 GB/s and two cores 250 GFLOP/s: about
    what this project measured."""
    matrices = ((960, 576), (576, 576), (3072, 576), (576, 1536))
    block = LayerSpec(LayerKind.BLOCK, matrices, 1152, kv_width=384, kv_heads=3)
    table = ((49_152, 576),)
    ends = LayerSpec(LayerKind.EMBEDDING, table, 0), LayerSpec(LayerKind.HEAD, table, 576)
    layers = (ends[0], *[block] * 30, ends[1])
    spec = ModelSpec("SmolLM2-135M", layers, 576, 49_152, 2048, tied=True)
    kind = Roofline("local", 250e9, 28e9, step_seconds=1e-3)
    stage = Stage("local", 0, spec.num_layers, ("q8g64",) * spec.num_layers)
    plan = Plan(spec.name, spec.digest, spec.num_layers, (stage,))
    profile = make_profile(spec, (kind,), ("q8g64",))
    return pace_of(CostModel(spec, Cluster.of_this_machine(10**9, 2), profile, WORK), plan)


def _large() -> Pace:
    cluster, profile = load_testbed("edgeshard", SHAPES[0])
    costs = CostModel(SHAPES[0], cluster, profile, WORK)
    return pace_of(costs, PLANNERS["edgeshard"](Problem(costs)).plan)


def server_section(
    name: str, what: str, pace: Pace, seeds: Sequence[int], on_step: OnStep
) -> Section:
    """Shares of requests in time, by how many more arrive than can be answered."""
    rows = {load: _shares(pace, Traffic(load, REQUESTS), seeds) for load in LOADS}
    on_step(f"server, {what}")
    title = f"Our server, simulated: {what}"
    caption = (
        f"Share of requests answered in time: {WORK.sequences} at a time, {REQUESTS} requests, "
        f"mean of {len(seeds)} draws. Load: arrivals beside what the full server answers. Steps "
        "take 0.8 to 1.2 times what is predicted."
    )
    draw = partial(save_lines, _lines(rows), title=title, x="load", y="share in time")
    columns = ("load", *(f"{policy} ratio" for policy in POLICIES))
    shown: tuple[tuple[Value, ...], ...] = tuple((f"{load:g}", *row) for load, row in rows.items())
    return Section(title, caption, columns, shown, Figure(f"dftsp-server-{name}", draw))


def _shares(pace: Pace, traffic: Traffic, seeds: Sequence[int]) -> list[float]:
    """Of every policy, the mean over the seeds."""
    limits, shares = limits_of(WORK, MOST_CONTEXT), dict.fromkeys(POLICIES, 0.0)
    for seed in seeds:
        asked = traffic.draw(pace, seed)
        for name, policy in POLICIES.items():
            served = simulate_server(policy, pace, limits, asked, _jitter(seed))
            shares[name] += share_in_time(served) / len(seeds)
    return list(shares.values())


def _jitter(seed: int) -> Callable[[], float]:
    draw = Random(seed)
    return lambda: draw.uniform(0.8, 1.2)


def setting_section(setting: Table) -> Section:
    """What is believed of the paper's simulation, as it is used above."""
    rows = tuple(
        (f"{row}, {what}", cell.value, f"[{cell.tag}]", cell.remark)
        for row, cells in setting.items()
        for what, cell in cells.items()
    )
    columns = ("what", "believed", "tag", "remark")
    return Section("The setting", "Believed; nobody here has read it.", columns, rows)
