"""The rules, in the order in which they speak. Each sees the facts and what those before it left,
and says what it changes, and why; or nothing.

Tags are those of docs/studies/README.md, and "ours": this project's, after no paper. Every
threshold is ours, for the paper's could not be read.
"""

from dataclasses import replace

from edgewise.advice import learning, sizing
from edgewise.advice.facts import Facts
from edgewise.advice.outcome import Advice, Rule, Spoken, Way
from edgewise.errors import Infeasible
from edgewise.units import format_bytes

PAPER = "Empirical Guidelines (arXiv 2406.03777)"
REVIEW = f"{PAPER}, as a review quotes it"
RULES = (
    Rule(
        "fits",
        "Choose among what the memory holds.",
        f"{REVIEW}, section 3.1",
        "V2",
        "",
        sizing.what_fits,
    ),
    Rule(
        "enough bits",
        f"Take no fewer than {sizing.LEAST_BITS:g} bits a weight if that fits.",
        "docs/quality: what few bits cost",
        "ours",
        f"{sizing.LEAST_BITS:g} bits",
        sizing.enough_bits,
    ),
    Rule(
        "no data",
        "Without records neither adapt nor look anything up.",
        "-",
        "ours",
        "",
        sizing.no_data,
    ),
    Rule(
        "easy",
        "For an easy task an adapter on a small model is enough.",
        f'{REVIEW}: "as difficulty increases ... gradually shift to RAG"',
        "I",
        "the smallest that fits",
        sizing.easy,
    ),
    Rule(
        "moderate",
        "For a moderate task look things up with the strongest model that fits.",
        REVIEW,
        "V2",
        "strongest: most weights",
        sizing.moderate,
    ),
    Rule(
        "hard",
        "Complex tasks require stronger models.",
        REVIEW,
        "V2",
        "strongest: most weights",
        sizing.hard,
    ),
    Rule(
        "hard, which way",
        "For a hard task look things up, too.",
        f'{REVIEW}: "... gradually shift to RAG"; its own choice was not read',
        "I",
        "",
        sizing.hard_way,
    ),
    Rule(
        "unknown task",
        "Not knowing the task, take the strongest that fits.",
        "-",
        "ours",
        "strongest: most weights",
        sizing.unknown_task,
    ),
    Rule(
        "few records",
        f"With fewer than {learning.FEW_SAMPLES} records look them up, learn nothing.",
        "-",
        "ours",
        f"{learning.FEW_SAMPLES} records",
        learning.few_samples,
    ),
    Rule(
        "memory to learn",
        "Adapt only what the source's memory holds with what learning takes.",
        f"{REVIEW}, section 3.1; arithmetic of ours",
        "I",
        "what learning takes",
        learning.learning_memory,
    ),
    Rule(
        "little data",
        "With little personal data a compressed model can beat the whole one.",
        f"{PAPER}, abstract",
        "V",
        f"fewer than {sizing.LITTLE_DATA} records",
        sizing.little_data,
    ),
    Rule(
        "most bits",
        "Quantize, rather than take a smaller model, to the most bits that fit.",
        f"{REVIEW}, section 3.1; no ranking of ways to compress was read",
        "I",
        "the most bits that fit",
        sizing.most_bits,
    ),
    Rule(
        "time to learn",
        "Learn only if every record can be read once in the time.",
        "-",
        "ours",
        f"a record costs {learning.PASSES} times its reading",
        learning.time_to_learn,
    ),
    Rule(
        "hours",
        "Cap the hours: longer tuning does not necessarily help.",
        f"{PAPER}, abstract",
        "V",
        f"{learning.MOST_HOURS:g} hours",
        learning.hours_at_most,
    ),
    Rule(
        "kind",
        "Among small adapters take LoRA; prompts, prefixes and IA3 are weaker.",
        f"{REVIEW}, section 3.1",
        "V2",
        "",
        learning.kind_of_adapter,
    ),
    Rule(
        "rank",
        "Where memory is tight take a small rank and a small alpha.",
        f"{REVIEW}, section 3.2",
        "V2",
        f"rank {learning.SMALL_RANK} above {learning.TIGHT:.0%} of it, else {learning.RANK}",
        learning.rank_of_adapter,
    ),
    Rule(
        "history",
        "Look things up in a limited part of the history.",
        f"{REVIEW}, section 3.4",
        "V2",
        f"{learning.MOST_HISTORY} records",
        learning.history,
    ),
)


def advise(facts: Facts) -> Advice:
    """What the rules come to. Raises Infeasible where no model fits in any scheme."""
    if not any(variant.fits for variant in facts.variants):
        raise _too_large(facts)
    advice = Advice(facts.variants, hours=facts.hours)
    for rule in RULES:
        if said := rule.speak(facts, advice):
            advice, reason = said
            advice = replace(advice, spoken=(*advice.spoken, Spoken(rule, reason)))
    return advice if advice.way is Way.ADAPTER else replace(advice, hours=None)


def _too_large(facts: Facts) -> Infeasible:
    least = min(facts.variants, key=lambda x: x.needed_bytes)
    needed, room = format_bytes(least.needed_bytes), format_bytes(facts.room_bytes)
    return Infeasible(
        f"no model fits on these devices: the least is {least}, which needs {needed} of {room} in "
        "all; name a smaller model, or add devices with --cluster",
        shortage_bytes=max(least.needed_bytes - facts.room_bytes, 0),
    )
