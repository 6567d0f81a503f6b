"""The options of `edgewise compress`."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import typer

from edgewise.cli.options import Json, Model, Text, TextLength, TextSeed, TextSequences


@dataclass(frozen=True, kw_only=True)
class CompressOptions:
    """Make a model smaller: a folder that loads like any other model."""

    model: Model
    out: Annotated[Path, typer.Option(help="Folder for the smaller model; it must not be there.")]
    luc: Annotated[
        bool,
        typer.Option("--luc", help="More bits, and fewer zeros, where a block feels it most."),
    ] = False
    bits: Annotated[
        int | None, typer.Option(help="Bits of blocks; with --luc, some get one more.")
    ] = None
    sparsity: Annotated[
        float | None,
        typer.Option(help="Share of the blocks' weights that become zero, on average; 0 if left."),
    ] = None
    pattern: Annotated[
        str | None,
        typer.Option(help="2:4 makes two of every four neighbours zero; else they lie anywhere."),
    ] = None
    text: Text = None
    sequences: TextSequences = 32
    length: TextLength = 128
    seed: TextSeed = 1
    as_json: Json = False
