"""Options of the commands for a cluster of several machines."""

from dataclasses import dataclass
from typing import Annotated, Literal

import typer

from edgewise.cli.options import Json, KVCache, Memory, MicroBatches, Model, Threads
from edgewise.schemes import CacheType
from edgewise.specs import Objective


@dataclass(frozen=True, kw_only=True)
class UpOptions:
    """Run a model on this machine and on those that join it, behind OpenAI's API."""

    model: Model
    listen: Annotated[
        str, typer.Option(help="Where devices join, HOST:PORT; 0.0.0.0: from everywhere.")
    ] = "0.0.0.0:7766"
    ray: Annotated[
        bool,
        typer.Option(
            "--ray",
            help="Take the nodes of this machine's Ray cluster in; starts one where it has none.",
        ),
    ] = False
    http: Annotated[
        str, typer.Option(help="Where clients ask, HOST:PORT; beyond this machine with a key.")
    ] = "127.0.0.1:8000"
    name: Annotated[str | None, typer.Option(help="Name of this device; else the machine's.")] = (
        None
    )
    memory: Memory = None
    threads: Threads = None
    scheme: Annotated[
        str | None, typer.Option(help="How weights are stored; by default the most bits that fit.")
    ] = None
    kv_cache: KVCache = CacheType.FULL
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
    as_json: Json = False


@dataclass(frozen=True, kw_only=True)
class JoinOptions:
    """Lend this machine to a cluster: the line that `edgewise up` prints."""

    address: Annotated[str, typer.Argument(help="HOST:PORT of the machine that runs `up`.")]
    token: Annotated[
        str, typer.Option(help="What lets this machine in, and tells it whom to trust.")
    ]
    name: Annotated[str | None, typer.Option(help="Name of this device; else the machine's.")] = (
        None
    )
    memory: Memory = None
    threads: Threads = None
    slowdown: Annotated[
        float, typer.Option(min=1, help="Take so many times as long: to try slow devices out.")
    ] = 1.0
    host: Annotated[
        str, typer.Option(help="Where other devices reach this one; else where it connects from.")
    ] = ""
    as_json: Json = False


@dataclass(frozen=True, kw_only=True)
class StatusOptions:
    """Show what a running cluster does."""

    url: Annotated[str, typer.Option(help="Where `edgewise up` answers.")] = "http://127.0.0.1:8000"
    as_json: Json = False
