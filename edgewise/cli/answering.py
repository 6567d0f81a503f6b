"""The options of the commands that answer a prompt here."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import typer

from edgewise.cli.options import (
    AdapterFolder,
    ClusterOrNone,
    Json,
    KVCache,
    Model,
    PrivateFolder,
    Quality,
    Trace,
    VoteOfExits,
    WireType,
)
from edgewise.schemes import CacheType, Wire
from edgewise.specs import Vote


@dataclass(frozen=True, kw_only=True)
class DemoOptions:
    """Cut a model across three emulated devices, none of which holds it, and let it answer."""

    as_json: Json = False
    model: Annotated[
        str | None,
        typer.Option(help="smollm2, a real model, by default where it is installed; or demo."),
    ] = None
    question: Annotated[
        int, typer.Option(min=0, help="Which question to ask the built-in model.")
    ] = 0


@dataclass(frozen=True, kw_only=True)
class RunOptions:
    """Answer a prompt."""

    model: Model
    prompt: Annotated[str, typer.Argument(help="What to ask; '-' reads standard input.")]
    cluster: ClusterOrNone = None
    plan: Annotated[
        Path | None, typer.Option(help="Plan file; without it, the best plan is worked out.")
    ] = None
    scheme: Annotated[
        str | None,
        typer.Option(
            help="How weights are stored: 8bit, 4bit, bf16, q4g64, ... (docs/schemes.md); by "
            "default as the model's file has them if that fits, else in the most bits that do."
        ),
    ] = None
    quality: Quality = None
    adapter: AdapterFolder = None
    vote: VoteOfExits = Vote.CONFIDENCE
    private: PrivateFolder = None
    kv_cache: KVCache = CacheType.FULL
    wire: WireType = Wire.FP32
    max_tokens: Annotated[int | None, typer.Option(help="Tokens at most; 128 by default.")] = None
    temperature: Annotated[float, typer.Option(help="0 always takes the likeliest token.")] = 0.0
    top_k: Annotated[int, typer.Option(help="Choose among this many; 0: among all.")] = 0
    top_p: Annotated[float, typer.Option(help="Choose among this share of probability.")] = 1.0
    seed: Annotated[int, typer.Option(help="Seed of the choices.")] = 0
    stop: Annotated[list[str] | None, typer.Option(help="End before this text; repeatable.")] = None
    raw: Annotated[bool, typer.Option(help="Do not apply the model's chat template.")] = False
    trace: Trace = None
    as_json: Json = False
