"""The commands: of each its options, a field for every one, and the function that gets them.

A class's docstring is the command's help. Functions are named, not imported: what a command needs
is imported when it runs, so `--help` stays quick.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import typer

from edgewise.cli.adapting import AdviseOptions, FederateOptions, TuneOptions
from edgewise.cli.answering import DemoOptions, RunOptions
from edgewise.cli.compressing import CompressOptions
from edgewise.cli.options import (
    CANDIDATE_NAMES,
    ClusterFile,
    ClusterOrNone,
    Fresh,
    Json,
    KVCache,
    MicroBatches,
    Model,
    NewTokens,
    PromptTokens,
    Rounding,
    Schemes,
    Sequences,
    Text,
    TextLength,
    TextSeed,
    TextSequences,
    Trace,
    WireType,
)
from edgewise.cli.sharing import (
    ChatOptions,
    JoinOptions,
    ServeOptions,
    ServingOptions,
    StatusOptions,
    UpOptions,
)
from edgewise.errors import InputError
from edgewise.schemes import STORED, CacheType, Wire
from edgewise.specs import Objective, Workload


@dataclass(frozen=True, kw_only=True)
class ProfileOptions:
    """Time a model's layers on every device of a cluster, and every link."""

    model: Model
    cluster: ClusterOrNone = None
    schemes: Schemes = STORED
    out: Annotated[Path | None, typer.Option(help="Write the profile to this file too.")] = None
    fresh: Fresh = False
    as_json: Json = False


@dataclass(frozen=True, kw_only=True)
class PlanOptions:
    """Choose which devices run which layers, and how each layer is stored."""

    model: Model
    cluster: ClusterFile
    profile: Annotated[
        Path | None, typer.Option(help="Profile file; without it, the cluster is measured.")
    ] = None
    schemes: Annotated[
        str | None,
        typer.Option(
            help="Schemes to choose from, with commas between; by default those of --sensitivity "
            "or --profile, else one for each width."
        ),
    ] = None
    sensitivity: Annotated[
        Path | None, typer.Option(help="What layers lose in schemes; without it, it is measured.")
    ] = None
    quality: Annotated[
        str | None,
        typer.Option(
            help="Loss the plan may add, a promise: '1%' of the model's own, which is the default "
            "where there are several schemes; '0.02'; or 'any'."
        ),
    ] = None
    rounding: Rounding = None
    kv_cache: KVCache = CacheType.FULL
    wire: WireType = Wire.FP32
    objective: Annotated[
        Objective, typer.Option(help="Time per token of one lane, or tokens of all per second.")
    ] = Objective.LATENCY
    prompt_tokens: PromptTokens = 128
    new_tokens: NewTokens = 64
    sequences: Sequences = 1
    micro_batches: MicroBatches = 1
    pin: Annotated[
        list[str] | None, typer.Option(help="Like '0-3=laptop' or 'head=laptop'; repeatable.")
    ] = None
    private: Annotated[
        int | None,
        typer.Option(
            min=0,
            help="Keep embedding, the first blocks, as many last ones and the head on the source.",
        ),
    ] = None
    avoid: Annotated[list[str] | None, typer.Option(help="Device to leave out.")] = None
    require: Annotated[list[str] | None, typer.Option(help="Device to use.")] = None
    planner: Annotated[str | None, typer.Option(help="Which planner; the best one by default.")] = (
        None
    )
    compare: Annotated[bool, typer.Option("--compare", help="Ask every planner.")] = False
    beside: Annotated[
        list[str] | None,
        typer.Option(
            help="With --compare, a smaller checkpoint of it, as `compress` writes, in the same "
            "table; repeatable."
        ),
    ] = None
    plot: Annotated[Path | None, typer.Option(help="Draw the plan (.png, .svg, .pdf).")] = None
    frontier: Annotated[
        Path | None, typer.Option(help="Draw what quality costs: plans under other budgets.")
    ] = None
    out: Annotated[Path | None, typer.Option(help="Write the plan to this file.")] = None
    as_json: Json = False


@dataclass(frozen=True, kw_only=True)
class SimulateOptions:
    """Simulate a plan under load, on devices that need not exist."""

    plan: Annotated[Path, typer.Argument(help="Plan file.")]
    testbed: Annotated[str | None, typer.Option(help="edgeshard, home or campus.")] = None
    cluster: Annotated[Path | None, typer.Option(help="Cluster file; needs --profile.")] = None
    profile: Annotated[Path | None, typer.Option(help="Profile file.")] = None
    requests: Annotated[int, typer.Option(min=1, help="How many arrive.")] = 32
    rate: Annotated[
        float | None, typer.Option(min=1e-9, help="Arrivals per second; all at once by default.")
    ] = None
    prompt_tokens: PromptTokens = 128
    new_tokens: NewTokens = 64
    sequences: Sequences = 1
    micro_batches: MicroBatches = 1
    bubbles: Annotated[bool, typer.Option("--bubbles", help="A barrier after each token.")] = False
    jitter: Annotated[float, typer.Option(min=0, help="Spread of all times, 0.2: 20 %.")] = 0.0
    seed: Annotated[int, typer.Option(help="Seed of arrivals and jitter.")] = 0
    trace: Trace = None
    as_json: Json = False


@dataclass(frozen=True, kw_only=True)
class StudyOptions:
    """Reproduce a paper's tables and figures, ours beside the published values."""

    name: Annotated[
        str,
        typer.Argument(
            help="edgeshard, dilemma, llm-pq, dftsp, edge-llm, private-lora, federated, "
            "luc, streamline, compressibility, guidelines or quality."
        ),
    ]
    out: Annotated[Path, typer.Option(help="Folder to write the page and its figures to.")]
    model: Annotated[
        str | None,
        typer.Option(help="What to quantize; by default demo for dilemma, smollm2 for quality."),
    ] = None
    text: Annotated[
        str | None,
        typer.Option(help="luc: what to measure on, a file; by default Python's documentation."),
    ] = None
    testbed: Annotated[
        bool,
        typer.Option("--testbed", help="edgeshard with real processes and links (Linux, root)."),
    ] = False
    as_json: Json = False


@dataclass(frozen=True, kw_only=True)
class SensitivityOptions:
    """Measure what each layer loses in each scheme."""

    model: Model
    schemes: Schemes = CANDIDATE_NAMES
    metric: Annotated[str, typer.Option(help="kl, weights (DILEMMA) or variance (LLM-PQ).")] = "kl"
    rounding: Rounding = None
    text: Text = None
    sequences: TextSequences = 16
    length: TextLength = 128
    seed: TextSeed = 0
    out: Annotated[Path | None, typer.Option(help="Write it to this file too.")] = None
    fresh: Fresh = False
    as_json: Json = False


@dataclass(frozen=True, kw_only=True)
class QuantizeOptions:
    """Quantize layers ahead of time; whatever loads them later finds them."""

    model: Model
    plan: Annotated[Path | None, typer.Option(help="Only what this plan needs.")] = None
    schemes: Schemes = "q2g64,q3g64,q4g64"
    rounding: Annotated[str, typer.Option(help="Which method.")] = "gptq"
    text: Text = None
    sequences: TextSequences = 16
    length: TextLength = 128
    seed: TextSeed = 1
    as_json: Json = False


@dataclass(frozen=True, kw_only=True)
class EvaluateOptions:
    """Measure loss, perplexity, KL, BLEU, exact match and F1 of a model in few bits."""

    model: Model
    plan: Annotated[Path | None, typer.Option(help="Schemes of this plan's layers.")] = None
    scheme: Annotated[str | None, typer.Option(help="One scheme throughout; else fp32.")] = None
    rounding: Rounding = None
    kv_cache: KVCache = CacheType.FULL
    data: Annotated[
        Path | None, typer.Option(help="Questions: SQuAD's JSON, or JSON lines; else the demo's.")
    ] = None
    limit: Annotated[int, typer.Option(min=1, help="Questions at most.")] = 200
    as_json: Json = False


@dataclass(frozen=True, kw_only=True)
class DevicesOptions:
    """Describe this machine, or the devices and links of a cluster file."""

    cluster: ClusterOrNone = None
    as_json: Json = False


COMMANDS: dict[str, tuple[type, str]] = {
    "demo": (DemoOptions, "edgewise.cli.demo:run_demo"),
    "serve": (ServeOptions, "edgewise.cli.serve:run_serve"),
    "up": (UpOptions, "edgewise.cli.up:run_up"),
    "join": (JoinOptions, "edgewise.cli.join:run_join"),
    "status": (StatusOptions, "edgewise.cli.status:show_status"),
    "chat": (ChatOptions, "edgewise.cli.chat:run_chat"),
    "run": (RunOptions, "edgewise.cli.run:run_prompt"),
    "profile": (ProfileOptions, "edgewise.cli.profile:run_profile"),
    "plan": (PlanOptions, "edgewise.cli.plan:run_plan"),
    "simulate": (SimulateOptions, "edgewise.cli.simulate:run_simulate"),
    "study": (StudyOptions, "edgewise.cli.study:run_study"),
    "sensitivity": (SensitivityOptions, "edgewise.cli.sensitivity:run_sensitivity"),
    "quantize": (QuantizeOptions, "edgewise.cli.quantize:run_quantize"),
    "compress": (CompressOptions, "edgewise.cli.compress:run_compress"),
    "tune": (TuneOptions, "edgewise.cli.tune:run_tune"),
    "federate": (FederateOptions, "edgewise.cli.federate:run_federate"),
    "advise": (AdviseOptions, "edgewise.cli.advise:run_advise"),
    "evaluate": (EvaluateOptions, "edgewise.cli.evaluate:run_evaluate"),
    "devices": (DevicesOptions, "edgewise.cli.devices:show_devices"),
}


def workload_of(
    options: PlanOptions | SimulateOptions | ServingOptions, cache: CacheType, wire: Wire
) -> Workload:
    """What a plan must serve. Raises InputError where the sizes make no workload."""
    lengths = options.prompt_tokens, options.new_tokens
    try:
        return Workload(*lengths, options.sequences, options.micro_batches, cache, wire)
    except ValueError as error:
        raise InputError(str(error)) from None
