"""`edgewise compress`: a smaller model, as a checkpoint that loads like any other."""

import math
from dataclasses import asdict

from edgewise.cli.adapting import CompressOptions
from edgewise.cli.terminal import bars, console, print_json
from edgewise.models.checkpoint import open_checkpoint
from edgewise.models.rewriting import check_free
from edgewise.quality.calibration import text_pieces
from edgewise.shortening.judging import token_nats
from edgewise.shortening.recipe import DistillationRecipe
from edgewise.shortening.shorten import TextSplit, shorten
from edgewise.shortening.spans import check_dropped


def run_compress(options: CompressOptions) -> None:
    """Shorten a model, write it, and say what it loses on text that was held out."""
    screen, show = console(options.as_json), bars(options.as_json)
    checkpoint = open_checkpoint(options.model)
    check_dropped(checkpoint, options.drop_layers)
    check_free(options.out)
    recipe = DistillationRecipe(
        options.steps, options.word_steps, options.batch, options.length, options.learning_rate,
        options.seed,
    )  # fmt: skip
    split = TextSplit.of(text_pieces(options.model, options.text, options.length), options.text)
    shorter = shorten(options.model, options.drop_layers, split, recipe, show)
    blocks = checkpoint.config.num_blocks
    with show("writing", len(shorter.blocks) + 2) as advance:
        shorter.write(options.out, advance)
    with show("judging", blocks + len(shorter.blocks) + 4) as advance:
        before = float(token_nats(checkpoint, split.held_out, on_step=advance).mean())
        after = shorter.loss(split.held_out, advance)
    span, learned = shorter.span, bool(shorter.changed)
    what = f"one block that learned what {span} did" if learned else f"without {span}"
    screen.print(
        f"{blocks} -> {len(shorter.blocks)} blocks: {what} (cosine of states before and behind: "
        f"{shorter.similarities[span.first]:.3f})"
    )
    screen.print(
        f"on text that was held out: {before:.3f} -> {after:.3f} nats a token (perplexity "
        f"{math.exp(before):.1f} -> {_exp(after):.1f})"
    )
    screen.print(f"checkpoint: {options.out}")
    if options.as_json:
        print_json({
            "model": options.model, "out": str(options.out), "blocks": len(shorter.blocks),
            "span": asdict(span), "replaced": learned, "similarities": shorter.similarities,
            "steps": [asdict(step) for step in shorter.steps], "loss_before": before,
            "loss": after,
        })  # fmt: skip


def _exp(nats: float) -> float:
    return math.exp(nats) if nats < 700 else math.inf
