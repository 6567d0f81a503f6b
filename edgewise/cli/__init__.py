"""The command line. Each command is one file, imported when it runs, so `--help` stays quick."""

import io
import json
import os
import signal
import sys
from pathlib import Path
from typing import Annotated, NoReturn

import typer
from rich.console import Console

from edgewise import __version__
from edgewise.cli.options import (
    CANDIDATE_NAMES,
    ClusterFile,
    Json,
    KVCache,
    Length,
    Model,
    Quality,
    Rounding,
    Scheme,
    Schemes,
    Seed,
    Sequences,
    Text,
    split_names,
    workload_of,
)
from edgewise.errors import EdgewiseError, PromptError
from edgewise.planning.problem import Objective
from edgewise.schemes import STORED, CacheType

app = typer.Typer(
    name="edgewise",
    help="Run one large language model across the devices you already have.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
)


def _show_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"edgewise {__version__}")
        raise typer.Exit


@app.callback()
def _root(
    version: Annotated[
        bool, typer.Option("--version", callback=_show_version, is_eager=True, help="Print it.")
    ] = False,
) -> None:
    pass


@app.command()
def demo(
    as_json: Json = False,
    model: Annotated[
        str | None,
        typer.Option(help="smollm2, a real model, by default where it is installed; or demo."),
    ] = None,
    question: Annotated[
        int, typer.Option(min=0, help="Which question to ask the built-in model.")
    ] = 0,
) -> None:
    """Cut a model across three emulated devices, none of which holds it, and let it answer."""
    from edgewise.cli.demo import run_demo

    run_demo(model=model, question=question, as_json=as_json)


@app.command()
def run(
    model: Model,
    prompt: Annotated[str, typer.Argument(help="What to ask; '-' reads standard input.")],
    cluster: ClusterFile = None,
    plan: Annotated[
        Path | None, typer.Option(help="Plan file; without it, the best plan is worked out.")
    ] = None,
    scheme: Scheme = None,
    quality: Quality = None,
    kv_cache: KVCache = CacheType.FULL,
    max_tokens: Annotated[int | None, typer.Option(help="Tokens at most; 128 by default.")] = None,
    temperature: Annotated[float, typer.Option(help="0 always takes the likeliest token.")] = 0.0,
    top_k: Annotated[int, typer.Option(help="Choose among this many; 0: among all.")] = 0,
    top_p: Annotated[float, typer.Option(help="Choose among this share of probability.")] = 1.0,
    seed: Annotated[int, typer.Option(help="Seed of the choices.")] = 0,
    stop: Annotated[
        list[str] | None, typer.Option(help="End before this text; repeatable.")
    ] = None,
    raw: Annotated[bool, typer.Option(help="Do not apply the model's chat template.")] = False,
    as_json: Json = False,
) -> None:
    """Answer a prompt."""
    from edgewise.cli.run import run_prompt
    from edgewise.runtime.sampling import Sampling

    run_prompt(
        model,
        _standard_input() if prompt == "-" else prompt,
        cluster_file=cluster,
        plan_file=plan,
        scheme=scheme,
        quality=quality,
        cache=kv_cache,
        max_tokens=max_tokens,
        sampling=Sampling(temperature, top_k, top_p, seed),
        stop=stop or [],
        raw=raw,
        as_json=as_json,
    )


def _standard_input() -> str:
    try:
        return sys.stdin.read()
    except UnicodeError as error:
        raise PromptError(
            f"standard input is not text in the terminal's encoding: {error}"
        ) from None


@app.command()
def profile(
    model: Model,
    cluster: Annotated[Path, typer.Option(help="Cluster file.")],
    schemes: Schemes = STORED,
    out: Annotated[Path | None, typer.Option(help="Write the profile to this file too.")] = None,
    fresh: Annotated[bool, typer.Option("--fresh", help="Measure even if it is known.")] = False,
    as_json: Json = False,
) -> None:
    """Time a model's layers on every device of a cluster, and every link."""
    from edgewise.cli.profile import run_profile

    run_profile(model, cluster, schemes=split_names(schemes), out=out, fresh=fresh, as_json=as_json)


@app.command()
def plan(
    model: Model,
    cluster: Annotated[Path, typer.Option(help="Cluster file.")],
    profile: Annotated[
        Path | None, typer.Option(help="Profile file; without it, the cluster is measured.")
    ] = None,
    schemes: Annotated[
        str | None,
        typer.Option(
            help="Schemes to choose from, with commas between; by default those of --sensitivity."
        ),
    ] = None,
    sensitivity: Annotated[
        Path | None, typer.Option(help="What layers lose in schemes; without it, it is measured.")
    ] = None,
    quality: Quality = None,
    rounding: Rounding = None,
    kv_cache: KVCache = CacheType.FULL,
    objective: Annotated[
        Objective, typer.Option(help="Time per token of one lane, or tokens of all per second.")
    ] = Objective.LATENCY,
    prompt_tokens: Annotated[int, typer.Option(min=1, help="Length of a typical prompt.")] = 128,
    new_tokens: Annotated[int, typer.Option(min=1, help="Length of a typical answer.")] = 64,
    sequences: Annotated[int, typer.Option(min=1, help="Sequences at a time.")] = 1,
    micro_batches: Annotated[int, typer.Option(min=1, help="Groups they travel in.")] = 1,
    pin: Annotated[
        list[str] | None, typer.Option(help="Like '0-3=laptop' or 'head=laptop'; repeatable.")
    ] = None,
    private: Annotated[
        int | None,
        typer.Option(
            min=0,
            help="Keep embedding, the first blocks, as many last ones and the head on the source.",
        ),
    ] = None,
    avoid: Annotated[list[str] | None, typer.Option(help="Device to leave out.")] = None,
    require: Annotated[list[str] | None, typer.Option(help="Device to use.")] = None,
    planner: Annotated[
        str | None, typer.Option(help="Which planner; the best one by default.")
    ] = None,
    compare: Annotated[bool, typer.Option("--compare", help="Ask every planner.")] = False,
    plot: Annotated[Path | None, typer.Option(help="Draw the plan (.png, .svg, .pdf).")] = None,
    frontier: Annotated[
        Path | None, typer.Option(help="Draw what quality costs: plans under other budgets.")
    ] = None,
    out: Annotated[Path | None, typer.Option(help="Write the plan to this file.")] = None,
    as_json: Json = False,
) -> None:
    """Choose which devices run which layers, and how each layer is stored."""
    from edgewise.cli.plan import PlanOptions, run_plan

    run_plan(
        model,
        PlanOptions(
            cluster=cluster,
            profile=profile,
            schemes=None if schemes is None else split_names(schemes),
            sensitivity=sensitivity,
            quality=quality,
            objective=objective,
            workload=workload_of(prompt_tokens, new_tokens, sequences, micro_batches, kv_cache),
            pins=tuple(pin or ()),
            private=private,
            avoid=tuple(avoid or ()),
            require=tuple(require or ()),
            planner=planner,
            compare=compare,
            plot=plot,
            frontier=frontier,
            rounding=rounding,
            out=out,
            as_json=as_json,
        ),
    )


@app.command()
def simulate(
    plan: Annotated[Path, typer.Argument(help="Plan file.")],
    testbed: Annotated[str | None, typer.Option(help="edgeshard, home or campus.")] = None,
    cluster: Annotated[Path | None, typer.Option(help="Cluster file; needs --profile.")] = None,
    profile: Annotated[Path | None, typer.Option(help="Profile file.")] = None,
    requests: Annotated[int, typer.Option(min=1, help="How many arrive.")] = 32,
    rate: Annotated[
        float | None, typer.Option(min=1e-9, help="Arrivals per second; all at once by default.")
    ] = None,
    prompt_tokens: Annotated[int, typer.Option(min=1, help="Length of a prompt.")] = 128,
    new_tokens: Annotated[int, typer.Option(min=1, help="Length of an answer.")] = 64,
    sequences: Annotated[int, typer.Option(min=1, help="Sequences at a time.")] = 1,
    micro_batches: Annotated[int, typer.Option(min=1, help="Groups they travel in.")] = 1,
    bubbles: Annotated[bool, typer.Option("--bubbles", help="A barrier after each token.")] = False,
    jitter: Annotated[float, typer.Option(min=0, help="Spread of all times, 0.2: 20 %.")] = 0.0,
    seed: Annotated[int, typer.Option(help="Seed of arrivals and jitter.")] = 0,
    trace: Annotated[Path | None, typer.Option(help="Write a Chrome trace.")] = None,
    as_json: Json = False,
) -> None:
    """Simulate a plan under load, on devices that need not exist."""
    from edgewise.cli.simulate import SimulateOptions, run_simulate

    workload = workload_of(prompt_tokens, new_tokens, sequences, micro_batches)
    options = SimulateOptions(
        testbed, cluster, profile, requests, rate, workload, bubbles, jitter, seed, trace, as_json
    )
    run_simulate(plan, options)


@app.command()
def study(
    name: Annotated[str, typer.Argument(help="edgeshard, dilemma, llm-pq or quality.")],
    out: Annotated[Path, typer.Option(help="Folder to write the page and its figures to.")],
    model: Annotated[
        str | None,
        typer.Option(help="What to quantize; by default demo for dilemma, smollm2 for quality."),
    ] = None,
    as_json: Json = False,
) -> None:
    """Reproduce a paper's tables and figures, ours beside the published values."""
    from edgewise.cli.study import run_study

    run_study(name, out=out, model=model, as_json=as_json)


@app.command()
def sensitivity(
    model: Model,
    schemes: Schemes = CANDIDATE_NAMES,
    metric: Annotated[str, typer.Option(help="kl, weights (DILEMMA) or variance (LLM-PQ).")] = "kl",
    rounding: Rounding = None,
    text: Text = None,
    sequences: Sequences = 16,
    length: Length = 128,
    seed: Seed = 0,
    out: Annotated[Path | None, typer.Option(help="Write it to this file too.")] = None,
    fresh: Annotated[bool, typer.Option("--fresh", help="Measure even if it is known.")] = False,
    as_json: Json = False,
) -> None:
    """Measure what each layer loses in each scheme."""
    from edgewise.cli.sensitivity import Asked, run_sensitivity
    from edgewise.quality.calibration import Calibration

    asked = Asked(
        model, split_names(schemes), metric, rounding, Calibration(text, sequences, length, seed)
    )
    run_sensitivity(asked, out=out, fresh=fresh, as_json=as_json)


@app.command()
def quantize(
    model: Model,
    plan: Annotated[Path | None, typer.Option(help="Only what this plan needs.")] = None,
    schemes: Schemes = "q2g64,q3g64,q4g64",
    rounding: Annotated[str, typer.Option(help="Which method.")] = "gptq",
    text: Text = None,
    sequences: Sequences = 16,
    length: Length = 128,
    seed: Seed = 1,
    as_json: Json = False,
) -> None:
    """Quantize layers ahead of time; whatever loads them later finds them."""
    from edgewise.cli.quantize import run_quantize
    from edgewise.quality.calibration import Calibration

    run_quantize(
        model,
        plan_file=plan,
        schemes=split_names(schemes),
        rounding=rounding,
        calibration=Calibration(text, sequences, length, seed),
        as_json=as_json,
    )


@app.command()
def evaluate(
    model: Model,
    plan: Annotated[Path | None, typer.Option(help="Schemes of this plan's layers.")] = None,
    scheme: Annotated[str | None, typer.Option(help="One scheme throughout; else fp32.")] = None,
    rounding: Rounding = None,
    kv_cache: KVCache = CacheType.FULL,
    data: Annotated[
        Path | None, typer.Option(help="Questions: SQuAD's JSON, or JSON lines; else the demo's.")
    ] = None,
    limit: Annotated[int, typer.Option(min=1, help="Questions at most.")] = 200,
    as_json: Json = False,
) -> None:
    """Measure loss, perplexity, KL, BLEU, exact match and F1 of a model in few bits."""
    from edgewise.cli.evaluate import run_evaluate

    run_evaluate(
        model,
        plan_file=plan,
        scheme=scheme,
        rounding=rounding,
        cache=kv_cache,
        data=data,
        limit=limit,
        as_json=as_json,
    )


@app.command()
def devices(cluster: ClusterFile = None, as_json: Json = False) -> None:
    """Describe this machine, or the devices and links of a cluster file."""
    from edgewise.cli.devices import show_devices

    show_devices(cluster, as_json=as_json)


def main() -> None:
    """Run the command line; errors become a message on standard error and an exit code."""
    as_json = "--json" in sys.argv
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="replace")  # a terminal that cannot show a character
    for signum in (signal.SIGINT, signal.SIGTERM):
        signal.signal(signum, _interrupt)
    try:
        sys.exit(app(standalone_mode=False))
    except EdgewiseError as error:
        _fail(str(error), type(error).__name__, error.exit_code, as_json)
    except typer.TyperException as error:
        _fail(error.format_message(), "UsageError", error.exit_code, as_json)
    except (_Interrupted, KeyboardInterrupt, typer.Abort):
        _fail("interrupted", "Interrupted", 130, as_json)
    except BrokenPipeError:  # whoever read our output has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        sys.exit(1)
    except OSError as error:
        _fail(f"{error.filename or 'system'}: {error.strerror}", "OSError", 2, as_json)


class _Interrupted(BaseException):
    """Ctrl-C or a termination; typer would swallow a KeyboardInterrupt without a word."""


def _interrupt(signum: int, frame: object) -> NoReturn:
    """The first interrupt ends the command; a second one must not cut its cleaning up short."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    raise _Interrupted


def _fail(message: str, kind: str, code: int, as_json: bool) -> None:
    if as_json:
        typer.echo(json.dumps({"error": {"type": kind, "message": message, "exit_code": code}}))
    Console(stderr=True, soft_wrap=True, highlight=False).print("error:", style="bold red", end=" ")
    typer.echo(message, err=True)
    sys.exit(code)
