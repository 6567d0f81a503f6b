"""Options that several commands share, and what they are read into, written once."""

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import typer

from edgewise.errors import InputError
from edgewise.schemes import CANDIDATES, CacheType, Wire
from edgewise.specs import Vote

Json = Annotated[bool, typer.Option("--json", help="Print one JSON document and nothing else.")]
Model = Annotated[
    str,
    typer.Argument(help="A model folder, a hub id such as Qwen/Qwen3-0.6B, 'smollm2' or 'demo'."),
]
ClusterFile = Annotated[Path, typer.Option("--cluster", help="Cluster file.")]
ClusterOrNone = Annotated[
    Path | None, typer.Option("--cluster", help="Cluster file; without it, this machine alone.")
]
Rounding = Annotated[
    str | None,
    typer.Option(
        help="How weights are quantized: nearest, gptq, or a name that `quantize` printed."
    ),
]
KVCache = Annotated[
    CacheType,
    typer.Option(help="How keys and values are kept: in the layer's own type, or in 8 bits."),
]
Quality = Annotated[
    str | None,
    typer.Option(help="Loss the plan may add, a promise: '1%' of the model's own, or '0.02'."),
]
AdapterFolder = Annotated[
    Path | None, typer.Option("--adapter", help="Answer with this adapter, a folder as PEFT's.")
]
VoteOfExits = Annotated[
    Vote, typer.Option("--vote", help="How the exits of an adapter of windows agree on a token.")
]
PrivateFolder = Annotated[
    Path | None,
    typer.Option(
        "--private", help="Private adapters: M stays on the source, blocks on other devices."
    ),
]
WireType = Annotated[
    Wire,
    typer.Option("--wire", help="What hidden states cross links in; all but fp32 is rounded."),
]
Text = Annotated[
    str | None,
    typer.Option(help="Text to measure on, a file or a data set; else what the model writes."),
]
TextSequences = Annotated[int, typer.Option(min=1, help="Sequences of that text.")]
TextLength = Annotated[int, typer.Option(min=2, help="Tokens of each sequence.")]
TextSeed = Annotated[int, typer.Option(min=0, help="Seed of what the model writes.")]
LISTEN = "0.0.0.0:7766"  # where devices join
ADAPTER = "adapter"  # what an answer's only one is called
CANDIDATE_NAMES = ",".join(CANDIDATES)
Schemes = Annotated[str, typer.Option(help="Schemes to choose from, with commas between.")]
PromptTokens = Annotated[int, typer.Option(min=1, help="Length of a prompt.")]
NewTokens = Annotated[int, typer.Option(min=1, help="Length of an answer.")]
Sequences = Annotated[int, typer.Option(min=1, help="Sequences at a time.")]
MicroBatches = Annotated[int, typer.Option(min=1, help="Groups they travel in.")]
Memory = Annotated[
    str | None, typer.Option(help="Memory to use at most, like '4 GB'; what is free by default.")
]
Threads = Annotated[
    int | None, typer.Option(min=1, help="Threads that compute; one for each core by default.")
]
Disk = Annotated[
    str | None,
    typer.Option(help='Rate at which layers may be read from disk, "800 MB/s"; else never.'),
]
Trace = Annotated[Path | None, typer.Option(help="Write a Chrome trace to this file.")]
Fresh = Annotated[bool, typer.Option("--fresh", help="Measure even if it is known.")]


def named_adapter(folder: Path | None) -> dict[str, Path]:
    """The only one of an answer."""
    return {} if folder is None else {ADAPTER: folder}


def named_folders(texts: Sequence[str]) -> dict[str, str]:
    """What `--adapter NAME=FOLDER` says. Raises InputError."""
    named: dict[str, str] = {}
    for text in texts:
        name, sign, folder = text.partition("=")
        if not (name and sign and folder) or name in named:
            raise InputError(f"--adapter {text}: write NAME=FOLDER, and each name once")
        named[name] = folder
    return named


def split_names(schemes: str) -> tuple[str, ...]:
    """Names with commas between. Raises InputError where there is none."""
    names = tuple(dict.fromkeys(name.strip() for name in schemes.split(",") if name.strip()))
    if not names:
        raise InputError("--schemes names no scheme; write it like 'fp32,bf16'")
    return names
