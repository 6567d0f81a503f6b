"""The options of the commands that adapt a model."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import typer

from edgewise.advice.facts import Task
from edgewise.cli.options import ClusterOrNone, Json, Model
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
    window: Annotated[int, typer.Option(min=1, help="Blocks that are trained together.")] = 6
    order: Annotated[
        WindowOrder,
        typer.Option(help="All windows by each batch, each for its share of the steps, or by lot."),
    ] = WindowOrder.BATCH
    rank: Annotated[int, typer.Option(min=1, help="Of the adapters.")] = 8
    steps: Annotated[int, typer.Option(min=1, help="How many batches are learned from.")] = 200
    batch: Annotated[int, typer.Option(min=1, help="Records of a step.")] = 4
    rate: Annotated[float, typer.Option(min=0.0, help="Learning rate.")] = 1e-3
    keep: Annotated[
        str | None,
        typer.Option(
            help="What a step may keep for its backward pass, like '200 MB'; blocks run again then."
        ),
    ] = None
    longest: Annotated[int, typer.Option(min=2, help="Tokens of a record at most.")] = 512
    held_out: Annotated[
        float, typer.Option(min=0.0, max=0.9, help="Share of the records to judge by.")
    ] = 0.1
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
