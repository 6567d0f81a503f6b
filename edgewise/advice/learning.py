"""The rules of adapters and of what is looked up: whether, how long, how much. Thresholds are
ours."""

import math
from dataclasses import replace

from edgewise.advice.facts import Facts, Variant
from edgewise.advice.outcome import Advice, Said, Way
from edgewise.units import format_bytes, format_seconds

FEW_SAMPLES = 50  # too few for an adapter
MOST_HISTORY = 100  # records to look things up in
MOST_HOURS = 4.0  # of learning
PASSES = 3  # times its reading is what learning from a record costs: forward, and twice that back
TIGHT = 0.5  # share of the memory from which on an adapter is to be small
RANK, SMALL_RANK = 8, 4


def few_samples(facts: Facts, advice: Advice) -> Said | None:
    if advice.way is not Way.ADAPTER or facts.samples is None or facts.samples >= FEW_SAMPLES:
        return None
    return replace(advice, way=Way.RETRIEVAL), f"there are {facts.samples}"


def learning_memory(facts: Facts, advice: Advice) -> Said | None:
    if advice.way is not Way.ADAPTER:
        return None
    able = tuple(x for x in advice.variants if x.learning_bytes <= facts.source_bytes)
    if len(able) == len(advice.variants):
        return None
    room = format_bytes(facts.source_bytes)
    if able:
        count = len(advice.variants) - len(able)
        return replace(advice, variants=able), f"{count} of them need more than {room} to learn"
    least = format_bytes(min(x.learning_bytes for x in advice.variants))
    return replace(advice, way=Way.RETRIEVAL), f"it takes {least} at least, of {room}"


def learning_seconds(facts: Facts, variant: Variant) -> float | None:
    """What learning from every record once takes, about: measured seconds of reading one, PASSES
    times. None where nothing was measured, or nobody said how many there are."""
    if facts.samples is None or variant.record_seconds is None:
        return None
    return PASSES * facts.samples * variant.record_seconds


def time_to_learn(facts: Facts, advice: Advice) -> Said | None:
    if advice.way is not Way.ADAPTER or facts.hours is None:
        return None
    needed = learning_seconds(facts, advice.variant)
    if facts.hours > 0 and (needed is None or needed <= facts.hours * 3600):
        return None
    takes = "" if needed is None else f": once through the records takes {format_seconds(needed)}"
    return replace(advice, way=Way.RETRIEVAL), f"there are {facts.hours:g} h{takes}"


def hours_at_most(facts: Facts, advice: Advice) -> Said | None:
    if advice.way is not Way.ADAPTER or (facts.hours or math.inf) <= MOST_HOURS:
        return None
    allowed = "nobody said how many" if facts.hours is None else f"there are {facts.hours:g}"
    return replace(advice, hours=MOST_HOURS), f"{allowed}; stop when held-out loss no longer falls"


def kind_of_adapter(facts: Facts, advice: Advice) -> Said | None:
    if advice.way is not Way.ADAPTER:
        return None
    return replace(advice, kind="LoRA"), "`edgewise tune` makes these"


def rank_of_adapter(facts: Facts, advice: Advice) -> Said | None:
    if advice.way is not Way.ADAPTER:
        return None
    share = advice.variant.learning_bytes / facts.source_bytes
    rank = SMALL_RANK if share > TIGHT else RANK
    return replace(advice, rank=rank), f"rank {rank}: learning takes {share:.0%} of the memory"


def history(facts: Facts, advice: Advice) -> Said | None:
    if advice.way is not Way.RETRIEVAL or (facts.samples or 0) <= MOST_HISTORY:
        return None
    return replace(advice, records=MOST_HISTORY), f"there are {facts.samples}; take the newest"
