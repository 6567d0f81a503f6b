"""Federated learning and swarms on a real model. How to read it: docs/studies/federated.md."""

from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from typing import Any

from edgewise.adapters import Kind
from edgewise.federating.algorithms import Algorithm
from edgewise.federation.settings import FederatedSettings
from edgewise.models.checkpoint import open_checkpoint
from edgewise.models.tokenizer import load_tokenizer
from edgewise.plots import save_lines
from edgewise.studies.federated.beside import published_section
from edgewise.studies.federated.city import city_of
from edgewise.studies.federated.faults import LIES
from edgewise.studies.federated.kept import FederatedRun
from edgewise.studies.federated.runs import Trials
from edgewise.studies.page import Figure, OnStep, Page, Section, Value, quietly
from edgewise.studies.published import load_published

MODEL = "smollm2"
JUDGED = 200  # questions, of all districts
SETTINGS = FederatedSettings(
    MODEL, "bf16", Algorithm.EXACT, Kind.PRIVATE, rank=32, alpha=64.0, blocks=4, rounds=12,
    steps=8, batch=4, rate=1.5e-2, rate_falls_to=0.1, momentum=0.5, longest=256,
)  # fmt: skip
LORA: dict[str, Any] = {"kind": Kind.LORA, "rank": 8, "alpha": 16.0, "rate": 2e-3}
SWARM_ROUNDS, EXPERT_STEPS = 10, 32  # in which an expert learns, before the swarm moves
LABELS = {
    Algorithm.EXACT: "plain mean",
    Algorithm.TRIMMED: "trimmed mean, or median",
    Algorithm.CLIPPED: "clipped",
    Algorithm.NEAR: "without who moved far",
}
RULES = {  # what is tried around which lie
    "scaled by 100": (Algorithm.EXACT, Algorithm.TRIMMED, Algorithm.CLIPPED),
    "flipped, times 3": tuple(LABELS),
}
COLUMNS = ("what", "nats a token", "right word for word ratio", "against together, points")
TEXT = (
    "Four districts ask questions of kinds that no other asks; `{model}` is adapted in its last "
    "{blocks} blocks, by {rounds} rounds of {steps} steps of {batch} questions in each district. "
    "All is judged by {judged} questions of all districts, about facts that nobody learned: nats "
    "a token, and answers that are right word for word. Clients are in one process, and failures "
    "and lies are put in between; over Flower's processes: benchmarks/federated.py."
)


def federated_page(
    model: str = MODEL,
    on_step: OnStep = quietly,
    *,
    settings: FederatedSettings = SETTINGS,
    judged: int = JUDGED,
) -> Page:
    """Trains for some tens of minutes. Raises ModelError."""
    settings = replace(settings, model=model)
    city = city_of(load_tokenizer(model), judged)
    trials = Trials(settings, city, on_step)
    exact = trials.together("together: exact mean of M")
    apart = apart_section(trials, exact)
    lora = trials.together("mean of LoRA's matrices", algorithm=Algorithm.FED_AVG, **LORA)
    sections = (
        apart,
        algorithms_section(exact, lora),
        bytes_section(exact, lora),
        faults_section(trials, exact),
        swarms_section(trials, exact),
        published_section(load_published("federated")),
    )
    text = TEXT.format(
        model=model, blocks=settings.blocks or "all", rounds=settings.rounds,
        steps=settings.steps, batch=settings.batch, judged=len(city.union),
    )  # fmt: skip
    return Page("federated", "Federated learning and swarms", text, sections)


def apart_section(trials: Trials, exact: FederatedRun) -> Section:
    """Together against each alone, and all data at one place."""
    alone = [trials.alone(district) for district in trials.city.districts]
    runs = [trials.untrained(), *alone, trials.central(), exact]
    caption = (
        "Alone: a district's own questions, as many steps as it takes together. At one place: all "
        "questions, as many steps as all districts take, one after the other."
    )
    return Section("Together, alone, at one place", caption, COLUMNS, _rows(runs, exact))


def algorithms_section(exact: FederatedRun, lora: FederatedRun) -> Section:
    """What is averaged."""
    runs = [exact, lora]
    caption = "All districts, no failures. LoRA's two matrices have no exact mean."
    series = {
        run.name: ([x.number for x in run.rounds], [x.loss or 0.0 for x in run.rounds])
        for run in runs
    }
    draw = partial(
        save_lines, series, title="Learning together", x="round", y="nats a token, while learning"
    )
    figure = Figure("federated-rounds", draw)
    return Section("How it is merged", caption, COLUMNS, _rows(runs, exact), figure)


def bytes_section(exact: FederatedRun, lora: FederatedRun) -> Section:
    """What a round moves, both ways, all clients together."""
    clients = len(exact.rounds[0].answered)
    spec = open_checkpoint(exact.settings.model).spec
    full = 2 * clients * spec.weight_bytes(("fp32",) * len(spec.layers))
    rows: list[tuple[Value, ...]] = [
        (name, moved, f"1 / {full / moved:,.0f}")
        for name, moved in (
            ("exact M", exact.rounds[0].traffic.both_bytes),
            ("LoRA", lora.rounds[0].traffic.both_bytes),
            ("the whole model, float32 (by its size)", full),
        )
    ]
    caption = (
        f"Of {clients} clients, to them and from them; what frames the numbers is not counted."
    )
    return Section("Bytes of a round", caption, ("what is sent", "bytes", "of the whole"),
                   tuple(rows))  # fmt: skip


def faults_section(trials: Trials, exact: FederatedRun) -> Section:
    """A client that is lost, or lies, in every round: another one each."""
    lost = trials.together("one lost in each round", lost=True)
    tried = [
        trials.together(f"one lies ({lie}): {LABELS[rule]}", LIES[lie], algorithm=rule)
        for lie, rules in RULES.items()
        for rule in rules
    ]
    caption = (
        "In every round another client is silent, or lies. Trimmed: of every number the lowest and "
        "the highest are left out, which is the median of four. Clipped: nobody moves further than "
        "the median client. Without who moved far: further than twice that. Who sends what is no "
        "number is refused; that, and what is left out, comes to what losing it does, to the bit."
    )
    return Section("Failures and lies", caption, COLUMNS, _rows([exact, lost, *tried], exact))


def swarms_section(trials: Trials, exact: FederatedRun) -> Section:
    """Utility over rounds: minus the nats a token of what clients hold out."""
    pso = trials.together("FedPSO", algorithm=Algorithm.FED_PSO)
    swarms = trials.together(
        "Model Swarms", algorithm=Algorithm.SWARMS, rounds=SWARM_ROUNDS, steps=EXPERT_STEPS
    )
    judged = {"FedPSO, by its best client": pso, "Model Swarms, by all clients": swarms}
    series = {
        name: (
            [x.number for x in run.rounds if x.utility is not None],
            [-x.utility for x in run.rounds if x.utility is not None],
        )
        for name, run in judged.items()
    }
    draw = partial(
        save_lines, series, title="Swarms: the best so far", x="round",
        y="nats a token of what is held out",
    )  # fmt: skip
    caption = (
        "FedPSO's utility is what the best client says of its own held-out questions; Model "
        f"Swarms' what all say of all, after {EXPERT_STEPS} steps of training."
    )
    figure = Figure("federated-swarms", draw)
    return Section("Swarms", caption, COLUMNS, _rows([exact, pso, swarms], exact), figure)


def _rows(runs: Sequence[FederatedRun], exact: FederatedRun) -> tuple[tuple[Value, ...], ...]:
    return tuple(
        (run.title, run.verdict.loss, run.verdict.right,
         f"{100 * (run.verdict.right - exact.verdict.right):+.1f}")
        for run in runs
    )  # fmt: skip
