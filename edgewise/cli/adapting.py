"""The options of the commands that adapt a model."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import typer

from edgewise.advice.facts import Task
from edgewise.cli.options import LISTEN, ClusterOrNone, Json, Model
from edgewise.federating.algorithms import Algorithm
from edgewise.schemes import STORED
from edgewise.tuning.method import TuningMethod, WindowOrder


@dataclass(frozen=True, kw_only=True)
class TuneOptions:
    """Adapt a model to your records: small matrices beside its own, which stay as they are."""

    model: Model
    data: Annotated[
        Path,
        typer.Option(
            help='JSON lines, {"prompt": ..., "answer": ...} or {"messages": [...]}, or a text.'
        ),
    ]
    out: Annotated[Path, typer.Option(help="Folder for the adapters; what is there goes on.")]
    method: Annotated[
        TuningMethod,
        typer.Option(help="A window of blocks at a time, all blocks, or all privately."),
    ] = TuningMethod.WINDOW
    scheme: Annotated[str, typer.Option(help="How the model's own weights are kept.")] = STORED
    cluster: ClusterOrNone = None
    join: Annotated[
        int | None,
        typer.Option(min=1, help="Use so many machines that join, by a line that is printed."),
    ] = None
    wait: Annotated[float | None, typer.Option(min=1.0, help="Seconds to wait for them: 600.")] = (
        None
    )
    listen: Annotated[
        str | None,
        typer.Option(help=f"Where they join, HOST:PORT: {LISTEN}, which is from everywhere."),
    ] = None
    new_keys: Annotated[
        bool, typer.Option("--new-keys", help="Let nobody in by the line of an earlier run here.")
    ] = False
    window: Annotated[int, typer.Option(min=1, help="Blocks that are trained together.")] = 6
    order: Annotated[
        WindowOrder,
        typer.Option(help="All windows by each batch, each for its share of the steps, or by lot."),
    ] = WindowOrder.BATCH
    rank: Annotated[int, typer.Option(min=1, help="Of the adapters.")] = 8
    steps: Annotated[
        int,
        typer.Option(
            min=1,
            help="In all, each of one window: by --order batch a batch is a step for each window.",
        ),
    ] = 200
    batch: Annotated[int, typer.Option(min=1, help="Records of a step.")] = 4
    rate: Annotated[
        float | None, typer.Option(min=0.0, help="Learning rate: 0.004 for windows, else 0.001.")
    ] = None
    keep: Annotated[
        str | None,
        typer.Option(
            help="What a step may keep for its backward pass, like '200 MB'; blocks run again then."
        ),
    ] = None
    longest: Annotated[
        int | None,
        typer.Option(min=2, help="Tokens of a record at most: 512, or what the model takes."),
    ] = None
    held_out: Annotated[
        float, typer.Option(min=0.0, max=0.9, help="Share of the records to judge by.")
    ] = 0.1
    seed: Annotated[int, typer.Option(help="Of the order of records, and of adapters.")] = 0
    as_json: Json = False


@dataclass(frozen=True, kw_only=True)
class FederateOptions:
    """Adapt a model to records that stay on their devices, which learn and merge what they learned.

    It is carried by Flower, which the extra "federated" installs."""

    model: Model
    data_on: Annotated[
        list[str],
        typer.Option(
            metavar="DEVICE=FILE",
            help="A device's records, as of tune; no FILE: it is another machine.",
        ),
    ]
    out: Annotated[Path, typer.Option(help="Folder for the adapters.")]
    algorithm: Annotated[Algorithm, typer.Option(help="How what they learned becomes one.")] = (
        Algorithm.EXACT
    )
    lora: Annotated[
        bool, typer.Option("--lora", help="Train and send LoRA's two matrices, not M alone.")
    ] = False
    scheme: Annotated[str, typer.Option(help="How the model's own weights are kept.")] = STORED
    rank: Annotated[int, typer.Option(min=1, help="Of the adapters.")] = 8
    blocks: Annotated[int, typer.Option(min=0, help="The last so many are adapted; 0: all.")] = 0
    rounds: Annotated[int, typer.Option(min=1, help="How often it is merged.")] = 5
    steps: Annotated[int, typer.Option(min=1, help="Batches a device learns from in a round.")] = 10
    batch: Annotated[int, typer.Option(min=1, help="Records of a batch.")] = 8
    rate: Annotated[float, typer.Option(min=0.0, help="Learning rate.")] = 1e-2
    rate_falls_to: Annotated[
        float, typer.Option(min=0.0, max=1.0, help="Share of the rate that the last round has.")
    ] = 1.0
    longest: Annotated[int, typer.Option(min=2, help="Tokens of a record at most.")] = 512
    held_out: Annotated[
        float, typer.Option(min=0.0, max=0.9, help="Share of its records a device judges by.")
    ] = 0.1
    proximal: Annotated[float, typer.Option(min=0.0, help="FedProx's mu.")] = 0.01
    momentum: Annotated[
        float, typer.Option(min=0.0, max=0.99, help="Of the last round's move, how much is added.")
    ] = 0.0
    trim: Annotated[int, typer.Option(min=0, help="How many lowest and highest are left out.")] = 1
    leaders: Annotated[
        bool, typer.Option("--leaders", help="A device merges, another one each round.")
    ] = False
    epsilon: Annotated[
        float, typer.Option(min=0.0, help="Local differential privacy a round; 0: none.")
    ] = 0.0
    delta: Annotated[float, typer.Option(min=0.0, max=1.0, help="Of the same.")] = 1e-5
    clip: Annotated[float, typer.Option(min=0.0, help="How far a device may move, then.")] = 1.0
    deadline: Annotated[
        float, typer.Option(min=1.0, help="Seconds that a device may take to answer.")
    ] = 600.0
    host: Annotated[
        str, typer.Option(help="This machine's address, at which other machines reach it.")
    ] = "127.0.0.1"
    port: Annotated[int | None, typer.Option(min=1, help="Else one that is free.")] = None
    keep: Annotated[
        Path | None, typer.Option(help="Folder for logs and certificates; else they are removed.")
    ] = None
    seed: Annotated[int, typer.Option(help="Of the order of records, and of adapters.")] = 0
    as_json: Json = False


@dataclass(frozen=True, kw_only=True)
class AdviseOptions:
    """Which size, which compression, adapter or retrieval or neither, by rules that say why."""

    models: Annotated[
        list[str] | None, typer.Argument(help="To choose from; smollm2 where none is named.")
    ] = None
    cluster: ClusterOrNone = None
    task: Annotated[
        Task | None,
        typer.Option(
            help="easy: simple classification; moderate: complex classification, simple "
            "summaries; hard: open generation."
        ),
    ] = None
    samples: Annotated[
        int | None, typer.Option(min=0, help="Records to learn from, or to look things up in.")
    ] = None
    hours: Annotated[float | None, typer.Option(help="Hours that learning may take.")] = None
    as_json: Json = False
