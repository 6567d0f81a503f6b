"""Options of the commands that serve a model, alone or with machines that join."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import typer

from edgewise.cli.options import (
    LISTEN,
    AdapterFolder,
    ClusterOrNone,
    Disk,
    Json,
    KVCache,
    Memory,
    MicroBatches,
    Model,
    PrivateFolder,
    Quality,
    Threads,
    VoteOfExits,
    WireType,
)
from edgewise.schemes import CacheType, Wire
from edgewise.specs import Objective, Vote


@dataclass(frozen=True, kw_only=True)
class ServingOptions:
    """What serving takes, whatever it runs on."""

    model: Model
    http: Annotated[
        str, typer.Option(help="Where clients ask, HOST:PORT; beyond this machine with a key.")
    ] = "127.0.0.1:8000"
    cors: Annotated[
        list[str] | None,
        typer.Option(help="Pages of this origin may ask, 'https://example.org'; repeatable."),
    ] = None
    name: Annotated[str | None, typer.Option(help="Name of this device; else the machine's.")] = (
        None
    )
    memory: Memory = None
    threads: Threads = None
    disk: Disk = None
    scheme: Annotated[
        str | None, typer.Option(help="How weights are stored; by default the most bits that fit.")
    ] = None
    quality: Quality = None
    kv_cache: KVCache = CacheType.FULL
    wire: WireType = Wire.FP32
    objective: Annotated[
        Objective, typer.Option(help="Time per token of one request, or tokens of all per second.")
    ] = Objective.LATENCY
    prompt_tokens: Annotated[int, typer.Option(min=1, help="Room for a prompt, on average.")] = 512
    new_tokens: Annotated[int, typer.Option(min=1, help="Room for an answer, on average.")] = 256
    sequences: Annotated[int, typer.Option(min=1, help="Requests at a time.")] = 4
    micro_batches: MicroBatches = 1
    policy: Annotated[
        Literal["fcfs", "static-batch", "no-batch", "dftsp"],
        typer.Option(
            help="Who enters next: in order; in whole batches; one by one; the most in time."
        ),
    ] = "fcfs"
    adapter: Annotated[
        list[str] | None,
        typer.Option(help="Serve an adapter too, NAME=FOLDER, as 'MODEL:NAME'; repeatable."),
    ] = None
    private: PrivateFolder = None
    vote: Annotated[
        Vote | None,
        typer.Option(
            help="How the exits of adapters of windows agree on a token; by default as "
            "'confidence' says. Given, there is room for those that come later, too."
        ),
    ] = None
    adapters_from: Annotated[
        Path | None,
        typer.Option(help="Adapters may be loaded from this folder while the server runs."),
    ] = None
    adapter_room: Annotated[
        str | None,
        typer.Option(
            help="Memory for adapters, like '200MB'; by default what those given take, and 256 MB "
            "with --adapters-from."
        ),
    ] = None
    as_json: Json = False


@dataclass(frozen=True, kw_only=True)
class ServeOptions(ServingOptions):
    """Serve a model behind OpenAI's API: on this machine, or on a cluster's devices."""

    cluster: ClusterOrNone = None
    address: Annotated[
        str | None,
        typer.Option(help="Of a Ray cluster that this machine is a node of: take its nodes in."),
    ] = None


@dataclass(frozen=True, kw_only=True)
class UpOptions(ServingOptions):
    """Serve a model on this machine and on those that join it, behind OpenAI's API."""

    listen: Annotated[
        str, typer.Option(help="Where devices join, HOST:PORT; 0.0.0.0: from everywhere.")
    ] = LISTEN
    new_keys: Annotated[
        bool,
        typer.Option("--new-keys", help="Let nobody in by the line of an earlier `up` here."),
    ] = False
    ray: Annotated[
        bool,
        typer.Option(
            "--ray",
            help="Take the nodes of this machine's Ray cluster in; starts one where it has none.",
        ),
    ] = False


@dataclass(frozen=True, kw_only=True)
class ChatOptions:
    """Talk with a model in the terminal."""

    model: Model
    system: Annotated[str | None, typer.Option(help="What the model is told first.")] = None
    cluster: ClusterOrNone = None
    scheme: Annotated[
        str | None, typer.Option(help="How weights are stored; by default the most bits that fit.")
    ] = None
    quality: Quality = None
    adapter: AdapterFolder = None
    vote: VoteOfExits = Vote.CONFIDENCE
    max_tokens: Annotated[int | None, typer.Option(min=1, help="Tokens of an answer at most.")] = (
        None
    )
    temperature: Annotated[
        float, typer.Option(min=0, help="0 always takes the likeliest token.")
    ] = 0.0
    top_p: Annotated[float, typer.Option(help="Choose among this share of probability.")] = 1.0
    seed: Annotated[int, typer.Option(min=0, help="Seed of the choices.")] = 0


@dataclass(frozen=True, kw_only=True)
class JoinOptions:
    """Lend this machine to a cluster: the line that `edgewise up` prints."""

    address: Annotated[str, typer.Argument(help="HOST:PORT of the machine that runs `up`.")]
    token: Annotated[
        str,
        typer.Option(
            envvar="EDGEWISE_TOKEN", help="What lets this machine in, and tells it whom to trust."
        ),
    ]
    name: Annotated[str | None, typer.Option(help="Name of this device; else the machine's.")] = (
        None
    )
    memory: Memory = None
    threads: Threads = None
    slowdown: Annotated[
        float, typer.Option(min=1, help="Take so many times as long: to try slow devices out.")
    ] = 1.0
    disk: Disk = None
    host: Annotated[
        str, typer.Option(help="Where other devices reach this one; else where it connects from.")
    ] = ""
    as_json: Json = False


@dataclass(frozen=True, kw_only=True)
class StatusOptions:
    """Show what a running cluster does."""

    url: Annotated[str, typer.Option(help="Where `edgewise serve` or `up` answers.")] = (
        "http://127.0.0.1:8000"
    )
    as_json: Json = False
