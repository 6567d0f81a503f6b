"""`edgewise compress --drop-layers`: fewer blocks, one of which learned what those dropped did."""

import math
from collections.abc import Sequence
from dataclasses import asdict

from torch import Tensor

from edgewise.cli.compressing import CompressOptions
from edgewise.cli.terminal import bars, console, print_json
from edgewise.errors import InputError
from edgewise.models.checkpoint import open_checkpoint
from edgewise.models.new_folder import check_vacant
from edgewise.quality.calibration import Calibration, sequences, text_pieces
from edgewise.quality.rounding import Show
from edgewise.shortening.judging import token_nats
from edgewise.shortening.recipe import DistillationRecipe
from edgewise.shortening.replacement import RATES, Replacement
from edgewise.shortening.shorten import ShorterModel, TextSplit, shorten
from edgewise.shortening.spans import check_dropped

WHAT = {Replacement.BLOCK: "one", Replacement.MLP: "an MLP"}
WRITTEN = 512  # sequences that the model writes, where no text is given


def run_shortening(options: CompressOptions, dropped: int) -> None:
    """Shorten a model, write it, and say what it loses on text that was held out."""
    if options.replace is not None and options.steps + options.word_steps == 0:
        raise InputError("--replace with no steps: what takes the place of blocks has to learn")
    show, checkpoint = bars(options.as_json), open_checkpoint(options.model)
    check_dropped(checkpoint, dropped)
    check_vacant(options.out)
    what = options.replace or Replacement.BLOCK
    rate = RATES[what] if options.learning_rate is None else options.learning_rate
    recipe = DistillationRecipe(
        options.steps, options.word_steps, options.batch, options.length, rate, options.seed, what
    )
    split = TextSplit.of(_pieces(options, show), options.text or options.model)
    shorter = shorten(options.model, dropped, split, recipe, show)
    with show("writing", len(shorter.blocks) + 2) as advance:
        shorter.write(options.out, advance)
    with show("judging", checkpoint.config.num_blocks + len(shorter.blocks) + 4) as advance:
        before = float(token_nats(checkpoint, split.held_out, on_step=advance).mean())
        after = shorter.loss(split.held_out, advance)
    replacement = recipe.replacement if shorter.changed else None
    for line in _lines(shorter, replacement, before, after):
        console(options.as_json).print(line)
    console(options.as_json).print(f"checkpoint: {options.out}", markup=False)
    if options.as_json:
        print_json({
            "model": options.model, "out": str(options.out), "blocks": len(shorter.blocks),
            "span": asdict(shorter.span), "replacement": replacement,
            "similarities": shorter.similarities, "loss_before": before, "loss": after,
            "steps": [asdict(step) for step in shorter.steps],
        })  # fmt: skip


def _pieces(options: CompressOptions, show: Show) -> Tensor:
    """Text to learn from and to judge by, ids [N, length]."""
    if options.text is not None:
        return text_pieces(options.model, options.text, options.length)
    written = Calibration(None, WRITTEN, options.length, options.seed)
    with show("writing text", options.length - 1) as advance:
        return sequences(options.model, written, advance)


def _lines(
    shorter: ShorterModel, replacement: Replacement | None, before: float, after: float
) -> Sequence[str]:
    """What people read."""
    span, whole = shorter.span, shorter.checkpoint.config.num_blocks
    what = f"{WHAT[replacement]} that learned what {span} did" if replacement else f"without {span}"
    return (
        f"{whole} -> {len(shorter.blocks)} blocks, {what} (cosine of states before and behind "
        f"these: {shorter.similarities[span.first]:.3f})",
        f"on text that was held out: {before:.3f} -> {after:.3f} nats a token (perplexity "
        f"{_exp(before):.1f} -> {_exp(after):.1f})",
    )


def _exp(nats: float) -> float:
    return math.exp(nats) if nats < 700 else math.inf
