"""`edgewise evaluate`: what a model in some schemes is worth."""

from dataclasses import asdict

from rich.table import Table

from edgewise.cli.commands import EvaluateOptions
from edgewise.cli.terminal import bars, console, finite, print_json, progress
from edgewise.errors import InputError
from edgewise.models.checkpoint import open_checkpoint
from edgewise.plans import Plan
from edgewise.quality.evaluate import Quality, measure_quality, quality_steps
from edgewise.quality.examples import load_examples
from edgewise.quality.rounding import rounding_for
from edgewise.quantization.store import Store
from edgewise.schemes import get_scheme
from edgewise.units import format_bytes


def run_evaluate(options: EvaluateOptions) -> None:
    """Measure a plan, or one scheme throughout, against full precision."""
    if options.plan is not None and options.scheme is not None:
        raise InputError("give either --plan or --scheme")
    model, as_json = options.model, options.as_json
    rounding, cache, rounded = options.rounding, options.kv_cache, {}
    spec = open_checkpoint(model).spec
    if options.plan is not None:
        plan = Plan.load(options.plan)
        plan.check_model(spec)
        schemes, rounding = plan.schemes, rounding or plan.rounding
        cache, rounded = plan.cache, plan.rounded
    else:
        schemes = (get_scheme(options.scheme or "fp32").name,) * spec.num_layers
    examples = load_examples(options.data, options.limit)
    rounding = rounding_for(model, tuple(dict.fromkeys(schemes)), rounding, bars(as_json))
    with progress("evaluating", quality_steps(model, len(examples)), as_json) as advance:
        quality = measure_quality(
            model,
            schemes,
            examples,
            method=rounding,
            cache=cache,
            rounded=rounded,
            store=Store.default(),
            on_step=advance,
        )
    console(as_json).print(quality_table(model, schemes, quality))
    if as_json:
        document = {"model": model, "schemes": schemes, "rounding": rounding, "cache": cache}
        document |= asdict(quality)
        print_json({**document, "perplexity": finite(quality.perplexity)})


def quality_table(model: str, schemes: tuple[str, ...], quality: Quality) -> Table:
    names = ", ".join(f"{name} x{schemes.count(name)}" for name in dict.fromkeys(schemes))
    title = f"{model} in {names}, {quality.count} questions"
    table = Table("", "", show_header=False, title=title)
    for name, text in (
        ("loss (nats per token of the answer)", f"{quality.loss:.4g}"),
        ("at full precision", f"{quality.full_loss:.4g}"),
        ("perplexity", f"{quality.perplexity:.5g}"),
        ("KL from full precision", f"{quality.kl:.3g}"),
        ("BLEU", f"{quality.bleu:.4f}"),
        ("exact match", f"{quality.exact_match:.1%}"),
        ("F1", f"{quality.f1:.1%}"),
        ("bits kept, of 32 a weight", f"{quality.ratio:.2%}"),
        ("weights", format_bytes(quality.weight_bytes)),
    ):
        table.add_row(name, text)
    return table
