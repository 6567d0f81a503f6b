"""The options of `edgewise compress`."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import typer

from edgewise.cli.options import Json, Model, Text, TextLength, TextSeed, TextSequences
from edgewise.shortening.replacement import Replacement


@dataclass(frozen=True, kw_only=True)
class CompressOptions:
    """Make a model smaller: a folder that loads like any other model."""

    model: Model
    out: Annotated[Path, typer.Option(help="Folder for the smaller model; it must not be there.")]
    drop_layers: Annotated[
        int | None,
        typer.Option(help="How many blocks fewer: those that change least, in a row."),
    ] = None
    steps: Annotated[
        int,
        typer.Option(
            min=0,
            help="Batches by which one block learns what those did; 0, like --word-steps: none "
            "does, they are left out.",
        ),
    ] = 200
    replace: Annotated[
        Replacement | None,
        typer.Option(
            help="What learns that: the first of them, which is the default, or an MLP without "
            "attention, smaller and for Edgewise alone.",
        ),
    ] = None
    word_steps: Annotated[
        int, typer.Option(min=0, help="Batches by which it then learns the next token.")
    ] = 100
    batch: Annotated[int, typer.Option(min=1, help="Pieces of text of a batch.")] = 8
    learning_rate: Annotated[
        float | None,
        typer.Option(min=0.0, help="At its highest: 0.0005 for a block, 0.001 for an MLP."),
    ] = None
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
        typer.Option(help="2:4: of every four neighbours two are zero and not stored."),
    ] = None
    text: Text = None
    sequences: TextSequences = 32
    length: TextLength = 128
    seed: TextSeed = 1
    as_json: Json = False
