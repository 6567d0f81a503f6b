"""Each rule speaks on facts that are made for it, and changes what it says it does."""

from dataclasses import replace

import pytest

from edgewise.advice.facts import Facts, Task, Variant
from edgewise.advice.learning import learning_seconds
from edgewise.advice.outcome import Advice, Way
from edgewise.advice.rules import RULES, advise
from edgewise.errors import Infeasible, InputError
from edgewise.studies.published import TAGS

GB = 10**9


def variant(model: str, scheme: str, gigabytes: float, bits: float, **known) -> Variant:
    """Of a model with a weight for every bit of these; learning takes twice as much."""
    weights = {"small": 10**8, "large": 10**9}[model]
    size = int(gigabytes * GB)
    return replace(Variant(model, scheme, weights, bits, size, 2 * size, fits=True), **known)


SMALL = (variant("small", "stored", 0.2, 16.0), variant("small", "4bit", 0.06, 4.6))
LARGE = (variant("large", "8bit", 1.1, 8.5), variant("large", "4bit", 0.6, 4.6))
FACTS = Facts((*SMALL, *LARGE), room_bytes=8 * GB, source_bytes=8 * GB, samples=500)


def names(advice: Advice) -> list[str]:
    return [spoken.rule.name for spoken in advice.spoken]


def reason(advice: Advice, name: str) -> str:
    return next(x.reason for x in advice.spoken if x.rule.name == name)


def asked(**changes) -> Advice:
    return advise(replace(FACTS, **changes))


def test_what_does_not_fit_is_no_choice() -> None:
    advice = asked(variants=(*SMALL, *(replace(x, fits=False) for x in LARGE)), task=Task.HARD)
    assert advice.variant.model == "small"
    assert reason(advice, "fits") == "2 of 4 variants fit in 8 GB; large in none"


def test_fewer_than_four_bits_only_where_nothing_else_fits() -> None:
    few = variant("large", "3bit", 0.5, 3.5)
    whole = asked(variants=(*SMALL, few), task=Task.HARD)
    assert whole.variant.model == "small"
    assert reason(whole, "enough bits") == "1 of them have fewer"
    alone = asked(variants=(few,), task=Task.HARD)
    assert alone.variant == few
    assert "edgewise evaluate" in reason(alone, "enough bits")
    assert "enough bits" not in names(asked(task=Task.HARD))


def test_an_easy_task_takes_an_adapter_on_the_smallest() -> None:
    advice = asked(task=Task.EASY)
    assert (advice.variant, advice.way) == (SMALL[0], Way.ADAPTER)
    assert names(advice) == ["fits", "easy", "most bits", "hours", "kind", "rank"]


def test_a_moderate_task_takes_retrieval_with_the_strongest() -> None:
    advice = asked(task=Task.MODERATE, samples=40)
    assert (advice.variant, advice.way) == (LARGE[0], Way.RETRIEVAL)
    assert names(advice) == ["fits", "moderate", "most bits"]
    assert (advice.kind, advice.rank, advice.hours, advice.records) == (None,) * 4


def test_a_hard_task_takes_the_strongest_and_says_what_was_not_read() -> None:
    advice = asked(task=Task.HARD, samples=40)
    assert (advice.variant, advice.way) == (LARGE[0], Way.RETRIEVAL)
    assert names(advice) == ["fits", "hard", "hard, which way", "most bits"]
    assert "could not be read" in reason(advice, "hard, which way")


def test_without_a_task_the_way_is_not_decided() -> None:
    advice = asked()
    assert (advice.variant, advice.way) == (LARGE[0], None)
    assert names(advice) == ["fits", "unknown task", "most bits"]


@pytest.mark.parametrize("task", [None, *Task])
def test_without_records_nothing_is_learned_or_looked_up(task: Task | None) -> None:
    advice = asked(task=task, samples=0)
    assert advice.way is Way.NEITHER
    assert "no data" in names(advice)
    assert advice.kind is advice.rank is advice.hours is advice.records is None


@pytest.mark.parametrize(("samples", "way"), [(49, Way.RETRIEVAL), (50, Way.ADAPTER)])
def test_few_records_are_looked_up(samples: int, way: Way) -> None:
    advice = asked(task=Task.EASY, samples=samples)
    assert advice.way is way
    assert ("few records" in names(advice)) is (way is Way.RETRIEVAL)


def test_only_what_can_be_learned_in_the_memory_is_adapted() -> None:
    some = asked(task=Task.EASY, source_bytes=int(0.3 * GB))
    assert (some.variant, some.way) == (SMALL[1], Way.ADAPTER)
    assert reason(some, "memory to learn") == "1 of them need more than 300 MB to learn"
    none = asked(task=Task.EASY, source_bytes=int(0.1 * GB))
    assert none.way is Way.RETRIEVAL
    assert reason(none, "memory to learn") == "it takes 120 MB at least, of 100 MB"


@pytest.mark.parametrize(("samples", "scheme"), [(199, "4bit"), (200, "stored")])
def test_little_data_takes_fewer_bits(samples: int, scheme: str) -> None:
    advice = asked(task=Task.EASY, samples=samples)
    assert advice.variant.scheme == scheme
    assert ("little data" in names(advice)) is (scheme == "4bit")
    assert ("most bits" in names(advice)) is (scheme == "stored")


def test_what_cannot_be_read_once_in_the_time_is_looked_up() -> None:
    # 500 records, 3 times 2.4 s each: one hour
    timed = tuple(replace(x, decode_seconds=0.01, record_seconds=2.4) for x in SMALL)
    enough = asked(variants=timed, task=Task.EASY, hours=1.0)
    assert (enough.way, enough.hours) == (Way.ADAPTER, 1.0)
    assert learning_seconds(FACTS, timed[0]) == pytest.approx(3600)
    short = asked(variants=timed, task=Task.EASY, hours=0.9)
    assert (short.way, short.hours) == (Way.RETRIEVAL, None)
    assert reason(short, "time to learn") == (
        "there are 0.9 h: once through the records takes 3,600 s"
    )


def test_no_time_is_too_little_and_unmeasured_time_is_no_reason() -> None:
    assert asked(task=Task.EASY, hours=0.0).way is Way.RETRIEVAL
    unmeasured = asked(task=Task.EASY, hours=1e-6)
    assert unmeasured.way is Way.ADAPTER
    assert "time to learn" not in names(unmeasured)
    assert learning_seconds(FACTS, SMALL[0]) is None


@pytest.mark.parametrize(
    ("hours", "most", "why"),
    [(None, 4.0, "nobody said how many"), (9.0, 4.0, "there are 9"), (4.0, 4.0, None)],
)
def test_hours_are_capped(hours: float | None, most: float, why: str | None) -> None:
    advice = asked(task=Task.EASY, hours=hours)
    assert advice.hours == most
    assert ("hours" in names(advice)) is (why is not None)
    if why is not None:
        assert reason(advice, "hours").startswith(f"{why}; ")


@pytest.mark.parametrize(("gigabytes", "rank"), [(0.7, 4), (0.9, 8)])
def test_a_tight_memory_takes_a_small_rank_of_lora(gigabytes: float, rank: int) -> None:
    advice = asked(task=Task.EASY, source_bytes=int(gigabytes * GB))
    assert (advice.kind, advice.rank) == ("LoRA", rank)  # learning takes 0.4 GB
    assert {"kind", "rank"} <= set(names(advice))


@pytest.mark.parametrize(("samples", "records"), [(100, None), (101, 100), (None, None)])
def test_a_long_history_is_cut(samples: int | None, records: int | None) -> None:
    advice = asked(task=Task.MODERATE, samples=samples)
    assert advice.records == records
    assert ("history" in names(advice)) is (records is not None)


def test_every_rule_has_spoken_in_some_test_and_says_where_it_stands() -> None:
    timed = replace(FACTS, task=Task.EASY, variants=tuple(
        replace(x, record_seconds=10.0) for x in (*SMALL, variant("large", "3bit", 0.5, 3.5))
    ))  # fmt: skip
    cases = (
        replace(timed, hours=1.0),
        replace(FACTS, samples=0),
        replace(FACTS, samples=20, task=Task.EASY),
        replace(FACTS, samples=60, task=Task.EASY, source_bytes=int(0.3 * GB)),
        replace(FACTS, samples=60, task=Task.EASY),
        replace(FACTS, task=Task.MODERATE),
        replace(FACTS, task=Task.HARD),
    )
    spoken = {name for case in cases for name in names(advise(case))}
    assert spoken == {rule.name for rule in RULES}
    assert {rule.tag for rule in RULES} <= {*TAGS, "ours"}
    assert all(rule.says and rule.source for rule in RULES)
    assert all(rule.tag == "ours" for rule in RULES if rule.source == "-")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"samples": 0, "hours": 2.0},
            "--samples 0 leaves nothing to learn from in --hours 2: say",
        ),
        ({"samples": -1}, "--samples must be zero or more, not -1"),
        ({"hours": -0.5}, "--hours must be zero or more, not -0.5"),
        ({"hours": float("nan")}, "--hours must be zero or more, not nan"),
        ({"variants": ()}, "advice needs at least one model"),
    ],
)
def test_wishes_that_contradict_each_other_are_named(changes: dict, message: str) -> None:
    with pytest.raises(InputError) as caught:
        replace(FACTS, **changes)
    assert str(caught.value).startswith(message)


def test_where_nothing_fits_the_least_is_named() -> None:
    with pytest.raises(Infeasible) as caught:
        asked(variants=tuple(replace(x, fits=False) for x in FACTS.variants), room_bytes=10**7)
    assert str(caught.value) == (
        "no model fits on these devices: the least is small in 4bit, which needs 60 MB of 10 MB in "
        "all; name a smaller model, or add devices with --cluster"
    )
    assert caught.value.shortage_bytes == 5 * 10**7
