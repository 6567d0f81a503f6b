"""Options that several commands share, written once."""

from pathlib import Path
from typing import Annotated

import typer

Json = Annotated[bool, typer.Option("--json", help="Print one JSON document and nothing else.")]
Model = Annotated[
    str, typer.Argument(help="A model folder, a hub id such as Qwen/Qwen3-0.6B, or 'demo'.")
]
ClusterFile = Annotated[
    Path | None, typer.Option("--cluster", help="Cluster file; without it, this machine alone.")
]
Scheme = Annotated[str, typer.Option(help="How weights are stored: fp32, bf16 or fp16.")]
Schemes = Annotated[str, typer.Option(help="Schemes to choose from, with commas between.")]
