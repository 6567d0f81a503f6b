"""The rules of size and bits: which model, in which scheme. Thresholds are ours."""

from dataclasses import replace

from edgewise.advice.facts import Facts, Task
from edgewise.advice.outcome import Advice, Said, Way
from edgewise.units import format_bytes

LEAST_BITS = 4.0  # of a weight: below, see docs/quality
LITTLE_DATA = 200  # where fewer bits may do as well


def what_fits(facts: Facts, advice: Advice) -> Said | None:
    fitting = tuple(x for x in advice.variants if x.fits)
    models = sorted({x.model for x in advice.variants} - {x.model for x in fitting})
    room = format_bytes(facts.room_bytes)
    reason = f"{len(fitting)} of {len(advice.variants)} variants fit in {room}"
    return replace(advice, variants=fitting), reason + (
        f"; {', '.join(models)} in none" if models else ""
    )


def enough_bits(facts: Facts, advice: Advice) -> Said | None:
    enough = tuple(x for x in advice.variants if x.bits >= LEAST_BITS)
    if not enough:
        return advice, (
            f"nothing fits in {LEAST_BITS:g} bits or more: measure what fewer cost with "
            "`edgewise evaluate` before you rely on it"
        )
    left_out = len(advice.variants) - len(enough)
    if not left_out:
        return None
    return replace(advice, variants=enough), f"{left_out} of them have fewer"


def no_data(facts: Facts, advice: Advice) -> Said | None:
    if facts.samples != 0:
        return None
    return replace(advice, way=Way.NEITHER), "there is nothing to learn from or to look up"


def easy(facts: Facts, advice: Advice) -> Said | None:
    if facts.task is not Task.EASY:
        return None
    smallest = min(x.weights for x in advice.variants)
    small = tuple(x for x in advice.variants if x.weights == smallest)
    way = advice.way or Way.ADAPTER
    return replace(advice, variants=small, way=way), f"{small[0].model} is the smallest that fits"


def _strongest(advice: Advice) -> Advice:
    largest = max(x.weights for x in advice.variants)
    return replace(advice, variants=tuple(x for x in advice.variants if x.weights == largest))


def moderate(facts: Facts, advice: Advice) -> Said | None:
    if facts.task is not Task.MODERATE:
        return None
    advice = _strongest(replace(advice, way=advice.way or Way.RETRIEVAL))
    return advice, f"{advice.variant.model} is the largest that fits"


def hard(facts: Facts, advice: Advice) -> Said | None:
    if facts.task is not Task.HARD:
        return None
    advice = _strongest(advice)
    return advice, f"{advice.variant.model} is the largest that fits"


def hard_way(facts: Facts, advice: Advice) -> Said | None:
    if facts.task is not Task.HARD or advice.way is not None:
        return None
    return replace(advice, way=Way.RETRIEVAL), "which of both is better there could not be read"


def unknown_task(facts: Facts, advice: Advice) -> Said | None:
    if facts.task is not None:
        return None
    undecided = "" if advice.way else "; whether to adapt it --task easy, moderate or hard decides"
    advice = _strongest(advice)
    return advice, f"{advice.variant.model} is the largest that fits{undecided}"


def little_data(facts: Facts, advice: Advice) -> Said | None:
    few = facts.samples is not None and 0 < facts.samples < LITTLE_DATA
    if not few or advice.way is not Way.ADAPTER or len(advice.variants) == 1:
        return None
    fewest = min(advice.variants, key=lambda x: (x.bits, x.needed_bytes))
    return replace(advice, variants=(fewest,)), (
        f"{facts.samples} records are few, so {fewest.scheme} may do as well as more bits"
    )


def most_bits(facts: Facts, advice: Advice) -> Said | None:
    if len(advice.variants) == 1:
        return None
    most = max(advice.variants, key=lambda x: (x.bits, -x.needed_bytes))
    size = format_bytes(most.needed_bytes)
    return replace(advice, variants=(most,)), f"{most}, {most.bits:.3g} bits a weight, takes {size}"
