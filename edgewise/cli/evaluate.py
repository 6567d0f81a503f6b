"""`edgewise evaluate`: what a model in some schemes is worth."""

from dataclasses import asdict
from pathlib import Path

from rich.table import Table

from edgewise.cli.terminal import bars, console, finite, print_json, progress
from edgewise.errors import InputError
from edgewise.models.checkpoint import open_checkpoint
from edgewise.plans import Plan
from edgewise.quality.evaluate import Quality, measure_quality, quality_steps
from edgewise.quality.examples import load_examples
from edgewise.quality.rounding import rounding_for
from edgewise.quantization.store import Store
from edgewise.schemes import CacheType, get_scheme
from edgewise.units import format_bytes


def run_evaluate(
    model: str,
    *,
    plan_file: Path | None,
    scheme: str | None,
    rounding: str | None,
    cache: CacheType,
    data: Path | None,
    limit: int,
    as_json: bool,
) -> None:
    """Measure a plan, or one scheme throughout, against full precision."""
    if plan_file is not None and scheme is not None:
        raise InputError("give either --plan or --scheme")
    spec = open_checkpoint(model).spec
    if plan_file is not None:
        plan = Plan.load(plan_file)
        plan.check_model(spec)
        schemes, rounding, cache = plan.schemes, rounding or plan.rounding, plan.cache
    else:
        schemes = (get_scheme(scheme or "fp32").name,) * spec.num_layers
    examples = load_examples(data, limit)
    rounding = rounding_for(model, tuple(dict.fromkeys(schemes)), rounding, bars(as_json))
    with progress("evaluating", quality_steps(model, len(examples)), as_json) as advance:
        found = measure_quality(
            model,
            schemes,
            examples,
            method=rounding,
            cache=cache,
            store=Store.default(),
            on_step=advance,
        )
    console(as_json).print(quality_table(model, schemes, found))
    if as_json:
        document = {"model": model, "schemes": schemes, "rounding": rounding, "cache": cache}
        document |= asdict(found)
        print_json({**document, "perplexity": finite(found.perplexity)})


def quality_table(model: str, schemes: tuple[str, ...], found: Quality) -> Table:
    names = ", ".join(f"{name} x{schemes.count(name)}" for name in dict.fromkeys(schemes))
    title = f"{model} in {names}, {found.count} questions"
    table = Table("", "", show_header=False, title=title)
    for name, text in (
        ("loss (nats per token of the answer)", f"{found.loss:.4g}"),
        ("at full precision", f"{found.full_loss:.4g}"),
        ("perplexity", f"{found.perplexity:.5g}"),
        ("KL from full precision", f"{found.kl:.3g}"),
        ("BLEU", f"{found.bleu:.4f}"),
        ("exact match", f"{found.exact_match:.1%}"),
        ("F1", f"{found.f1:.1%}"),
        ("bits kept, of 32 a weight", f"{found.ratio:.2%}"),
        ("weights", format_bytes(found.weight_bytes)),
    ):
        table.add_row(name, text)
    return table
